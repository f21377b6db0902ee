"""Which files are there, by one listing of each folder: a stat for each of 118,000 files takes minutes on a network."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from datamodules.coco_columns import Texts
from datamodules.findings import EXAMPLES, Finding, Severity
from datamodules.image_files import is_hidden, is_image, why_missing
from datamodules.preflight.report import Looked


class Found(NamedTuple):
    """A folder against the names of the files that it should hold.

    Attributes:
        missing: Names, relative to the folder, of which there is no file; links that lead nowhere among them.
        images: Other images beside those named.
        others: Other files that are no images, by their ending in lower case.
        hidden: Files whose name begins with a dot.
    """

    missing: list[str]
    images: list[str]
    others: Counter[str]
    hidden: int


def encoded(names: Texts) -> list[bytes]:
    """File names as the system has them: decoding all of them would take longer than looking for the files."""
    ends = names.ends.tolist()
    content = names.content[: ends[-1] if ends else 0].tobytes()
    return [content[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def list_files(folder: Path, names: Sequence[bytes]) -> Found:
    """Looks for files by their names.

    Args:
        folder: Where they are.
        names: Paths relative to it, encoded.
    """
    root = os.fsencode(folder)
    missing: list[bytes] = []
    extra: list[bytes] = []
    for parent, expected in _by_folder(names).items():
        place = os.path.join(root, parent)
        found = _names_in(place)
        # A file system may find names that it lists differently: in other case, or with other accents.
        missing += [
            os.path.join(parent, file) for file in expected - found if not os.path.isfile(os.path.join(place, file))
        ]
        extra += [os.path.join(parent, file) for file in found - expected]
    beside = [Path(os.fsdecode(name)) for name in extra]
    visible = [path for path in beside if not is_hidden(path)]
    images = sorted(str(path) for path in visible if is_image(path))
    others = Counter(path.suffix.lower() for path in visible if not is_image(path))
    return Found(sorted(map(os.fsdecode, missing)), images, others, hidden=len(beside) - len(visible))


def _by_folder(names: Sequence[bytes]) -> dict[bytes, set[bytes]]:
    """The names of the files that are expected in each folder."""
    flat = set(names)
    if not any(b"/" in name for name in flat):
        return {b"": flat}
    wanted: dict[bytes, set[bytes]] = {}
    for name in flat:
        parent, _, file = name.rpartition(b"/")
        wanted.setdefault(parent, set()).add(file)
    return wanted


def _names_in(folder: bytes) -> set[bytes]:
    """Names of the files in a folder, without links that lead nowhere."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}  # asks the disk about links only
    except OSError:  # every file in it is missing
        return set()


def look_at_names(folder: Path, names: Sequence[bytes], source: str, missing: Severity) -> Looked:
    """Looks whether the files of a split are there, and what else is in their folder.

    Args:
        folder: The folder of the files.
        names: Paths of the files relative to it, encoded.
        source: What names them, such as the annotation file.
        missing: How bad it is where some are not there.
    """
    found = list_files(folder, names)
    facts = {"folder": str(folder), "missing files": len(found.missing)}
    total = len(names) - len(found.missing) + len(found.images) + sum(found.others.values()) + found.hidden
    notes = [
        Finding("unlisted", "note", str(folder), len(found.images), total, f"files are images that {source} lacks"),
        Finding("other_files", "note", str(folder), sum(found.others.values()), total, "files are no images"),
        Finding("hidden", "note", str(folder), found.hidden, total, "files are hidden and not read"),
    ]
    shown = [found.images[: EXAMPLES + 1], endings(found.others), []]
    findings = [replace(note, examples=shown) for note, shown in zip(notes, shown, strict=True) if note.count]
    if found.missing:
        remedy = why_missing(folder / found.missing[0]) or "complete the folder, or take them out"
        text = f"files that {source} names are not there; {remedy}"
        lost = Finding(
            "missing", missing, str(folder), len(found.missing), len(names), text, found.missing[: EXAMPLES + 1]
        )
        findings.insert(0, lost)
    return Looked(facts, findings)


def endings(others: Counter[str]) -> list[str]:
    """`12 x .txt`, the most common first."""
    return [f"{count:,} x {ending or 'no ending'}" for ending, count in others.most_common()]
