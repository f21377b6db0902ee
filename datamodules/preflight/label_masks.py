"""The look through images with label masks: the names of the files, and the pixels of the masks."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import DataError
from datamodules.findings import EXAMPLES, Finding, Severity
from datamodules.label_mask_dataset import LabelMaskDataset
from datamodules.mask_doubts import doubt_first_value
from datamodules.orientation import Orientation, Size
from datamodules.preflight.headers import look_at_headers
from datamodules.preflight.kept import each, look_into
from datamodules.preflight.names import look_at_names
from datamodules.preflight.report import Looked, Split, SplitReport
from datamodules.preflight.twins import ImageFiles

MANY_IGNORED = 0.9
"""Share of ignored pixels from which on it is doubtful that they are meant to be."""
_SHOWN = 6


class _Mask(NamedTuple):
    size: Size
    pixels: NDArray[np.int64]
    """(K + 1,) pixels of each class, and of those that are ignored."""
    fault: str = ""


def look_through_masks(
    dataset: LabelMaskDataset,
    files: ImageFiles,
    split: Split,
    class_names: Sequence[str],
    orientation: Orientation,
    broken: Severity,
    whole: bool,
) -> SplitReport:
    """Looks for what of a split is lost or doubtful.

    Args:
        dataset: The split.
        files: Its images.
        split: What they are used for.
        class_names: The classes of the model.
        orientation: What is done with an image that EXIF wants turned.
        broken: How bad it is where an image or mask cannot be used.
        whole: Read all masks, and the headers of all images.
    """
    masks = [os.fsencode(path.relative_to(files.folder)) for path in dataset.mask_paths]
    names = look_at_names(files.folder, [*files.names, *masks], "the split", broken)
    look = _Look(dataset, split, class_names, orientation, broken)
    about = (
        dataset.values.key,
        class_names,
        orientation,
        broken,
        split,
        dataset.max_pixels,
        *dataset.paths,
        *dataset.mask_paths,
    )
    pixels = look_into("masks", about, lambda place: _files(dataset, place), len(dataset), whole, look.into)
    return SplitReport.of(split, pixels, names)


def _files(dataset: LabelMaskDataset, place: int) -> list[Path]:
    return [dataset.paths[place], dataset.mask_paths[place]]


class _Look:
    """The look into the masks of a split."""

    def __init__(
        self,
        dataset: LabelMaskDataset,
        split: Split,
        class_names: Sequence[str],
        orientation: Orientation,
        broken: Severity,
    ) -> None:
        self.dataset, self.split, self.class_names = dataset, split, class_names
        self.orientation, self.broken = orientation, broken
        self.where = str(dataset.mask_paths[0].parent)

    def into(self, places: Sequence[int]) -> Looked:
        there = [place for place in places if self.dataset.mask_paths[place].exists()]
        masks = dict(zip(there, each(self._read, there), strict=True))
        sound = {place: mask for place, mask in masks.items() if not mask.fault}
        faults = [mask.fault for mask in masks.values() if mask.fault]
        headers = look_at_headers(
            lambda place: self.dataset.paths[place],
            lambda place: sound[place].size,
            "its mask",
            self.broken,
            self.orientation,
            self.dataset.max_pixels,
            list(sound),
        )
        pixels = np.zeros(len(self.class_names) + 1, np.int64)
        for mask in sound.values():
            pixels += mask.pixels
        findings = [*self._of_pixels(pixels, list(sound.values()), len(places)), *headers.findings]
        if faults:
            text = "masks cannot be used; correct them or take them out"
            finding = Finding("unreadable", self.broken, self.where, len(faults), len(places), text, faults[:EXAMPLES])
            findings.insert(0, finding)
        return Looked(self._facts(pixels, len(places)), findings, self._words(pixels, len(places)))

    def _read(self, place: int) -> _Mask:
        count = len(self.class_names)
        try:
            labels = self.dataset.read_labels(place)
        except DataError as error:
            return _Mask((0, 0), np.zeros(count + 1, np.int64), str(error))
        of_value = np.bincount(labels.reshape(-1), minlength=count)
        return _Mask(labels.shape, np.append(of_value[:count], of_value[count:].sum()))

    def _of_pixels(self, pixels: NDArray[np.int64], masks: Sequence[_Mask], looked: int) -> Iterator[Finding]:
        total, ignored = int(pixels.sum()), int(pixels[-1])
        if masks and ignored == total:
            text = (
                f"pixels of the {looked:,} masks read have a class: all are ignored; expected {self.dataset.values}; "
                "relabel the masks, or say which values are classes (docs/data.md)"
            )
            yield Finding("no_labels", "error", self.where, 0, total, text)
            return
        if ignored >= MANY_IGNORED * total > 0:
            text = f"pixels of the {looked:,} masks read are ignored; {self.dataset.values}"
            yield Finding("ignored", "warning", self.where, ignored, total, text)
        empty = sum(int(mask.pixels[-1] == mask.pixels.sum()) for mask in masks)
        if empty:
            yield Finding("empty_masks", "note", self.where, empty, looked, "masks have no pixel of any class")
        if looked < len(self.dataset):
            return  # a rare class may be in none of some masks
        absent = [name for name, count in zip(self.class_names, pixels, strict=False) if not count]
        if absent:
            training = self.split == "training"
            consequence = "cannot be learnt" if training else "have no score and do not count in the mean"
            text = f"classes are in no mask: they {consequence}"
            severity: Severity = "warning" if training else "note"
            yield Finding("absent_class", severity, self.where, len(absent), len(self.class_names), text, absent)
        if (doubt := doubt_first_value(self.where, self.dataset.values, pixels)) is not None:
            yield doubt

    def _facts(self, pixels: NDArray[np.int64], looked: int) -> dict[str, object]:
        shares = (pixels / max(pixels.sum(), 1)).round(6).tolist()
        return {
            "images": len(self.dataset),
            "masks read": looked,
            "share of ignored pixels": shares[-1],
            "share of pixels by class": dict(zip(self.class_names, shares[:-1], strict=True)),
        }

    def _words(self, pixels: NDArray[np.int64], looked: int) -> list[str]:
        shares = pixels / max(pixels.sum(), 1)
        common = np.argsort(-shares[:-1], kind="stable")[:_SHOWN]
        words = [f"{self.class_names[label]} {shares[label]:.1%}" for label in common if shares[label] > 0]
        more = int(np.count_nonzero(shares[:-1])) - len(words)
        of_masks = f"pixels of {looked:,} masks: " if looked < len(self.dataset) else "pixels: "
        return [
            f"{len(self.dataset):,} images, {len(self.class_names):,} classes",
            of_masks + ", ".join([*words, *[f"{more} more classes"] * (more > 0), f"ignored {shares[-1]:.1%}"]),
        ]
