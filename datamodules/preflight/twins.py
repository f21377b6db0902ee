"""Images that are in two splits: the score of validation then says too much."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import xxhash

from datamodules.findings import EXAMPLES, Finding

_HEAD = 4096
"""Bytes by which files of equal size are told apart before they are read."""


class ImageFiles(NamedTuple):
    """The images of a split.

    Attributes:
        folder: Their folder.
        names: Paths relative to it, encoded.
    """

    folder: Path
    names: Sequence[bytes]

    def path(self, place: int) -> Path:
        """One of the files."""
        return self.folder / os.fsdecode(self.names[place])


def look_for_twins(training: ImageFiles, validation: ImageFiles, whole: bool) -> list[Finding]:
    """Looks for images that two splits share.

    Args:
        training: The images of one.
        validation: The images of the other.
        whole: Compare the files' contents, too.
    """
    few, many = sorted((training.names, validation.names), key=len)
    same = sorted(os.fsdecode(name) for name in set(few).intersection(many))
    where, total = str(validation.folder), len(validation.names)
    if same and training.folder.resolve() == validation.folder.resolve():
        text = "images are trained on, too: the score says too much"
        return [Finding("twins", "warning", where, len(same), total, text, same[: EXAMPLES + 1])]
    findings = []
    if same:
        text = f"images are called as others in {training.folder}"
        findings.append(Finding("same_names", "note", where, len(same), total, text, same[: EXAMPLES + 1]))
    if whole and (twins := sorted(_equal_files(training, validation))):
        text = f"images have the same content as one in {training.folder}: the score says too much"
        findings.append(Finding("twins", "warning", where, len(twins), total, text, twins[: EXAMPLES + 1]))
    return findings


def _equal_files(training: ImageFiles, validation: ImageFiles) -> Iterator[str]:
    """The files of validation that training has too, each with its counterpart; few files are read to their end."""
    known: dict[tuple[int, int], list[Path]] = {}
    wanted = {size for place in range(len(validation.names)) if (size := _size(validation.path(place)))}
    for place in range(len(training.names)):
        path = training.path(place)
        if (size := _size(path)) in wanted:
            known.setdefault((size, _digest(path, _HEAD)), []).append(path)
    for place in range(len(validation.names)):
        path = validation.path(place)
        alike = known.get((size, _digest(path, _HEAD)), []) if (size := _size(path)) else []
        if alike and (digest := _digest(path)) in (found := {_digest(other): other for other in alike}):
            yield f"{path.name} = {found[digest].name}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # missing, which is told elsewhere
        return 0


def _digest(path: Path, count: int = -1) -> int:
    with path.open("rb") as stream:
        return xxhash.xxh3_64_intdigest(stream.read(count))
