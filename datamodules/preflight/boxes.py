"""What of an annotation file is trained on and scored, and what falls away for which reason."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import albumentations as A
import numpy as np
from numpy.typing import NDArray

from datamodules.coco_annotations import AnnotationFile
from datamodules.coco_columns import clipped_corners
from datamodules.findings import EXAMPLES, Finding, Severity
from datamodules.geometry import ResizeAndCrop
from datamodules.preflight.box_flags import SIZES, Doubt, count_objects, load_flags
from datamodules.preflight.report import Looked, Split
from datamodules.resampling import Size

COUNTED = 100
"""Detections of an image that COCO's metric counts."""
MANY_CROWDS = 0.1
"""Share of crowd regions above which they are no longer taken for what they are; COCO has 1.2 %."""
MANY_STICK_OUT = 0.25
"""Share of boxes that leave their image above which boxes that would fit as corners are taken for corners."""
_CORNERS = "boxes are x, y, width, height, from corners: x1, y1, x2 - x1, y2 - y1"


def look_at_boxes(
    file: AnnotationFile,
    split: Split,
    transforms: Sequence[A.BasicTransform],
    whole_file: bool,
    drops_empty: bool,
    part: Size | None = None,
) -> Looked:
    """Looks through the columns of a file: no image is read.

    Args:
        file: The annotations.
        split: What they are used for.
        transforms: What is done to a validation image, which says how large the input is.
        whole_file: No images of the file are left out by `max_images`.
        drops_empty: Training leaves images without objects out.
        part: Height and width of the tiles that images are cut into, if they are.
    """
    return _Boxes(file, split, transforms, whole_file, drops_empty, part).look()


class _Boxes:
    """The look through one file."""

    def __init__(
        self,
        file: AnnotationFile,
        split: Split,
        transforms: Sequence[A.BasicTransform],
        whole_file: bool,
        drops_empty: bool,
        part: Size | None,
    ) -> None:
        self.file, self.split, self.transforms = file, split, transforms
        self.whole_file, self.drops_empty, self.part = whole_file, drops_empty, part
        columns = load_flags(file.path)
        self.flags = columns["flags"][: len(file.boxes)]
        self.thinnest = columns["thinnest"][: len(file)]
        self.is_object = ~file.iscrowd & (self.flags & Doubt.EMPTY == 0)
        self.objects = columns["objects"] if whole_file else self._count_objects()

    def look(self) -> Looked:
        found = [*self._lost(), *self._doubtful(), *self._uneven()]
        findings = [finding for finding in found if finding is not None]
        return Looked(self._facts(), self._stopping(findings) or findings, self._words())

    @cached_property
    def of_image(self) -> NDArray[np.int64]:
        """(I,) objects of each image."""
        return self.file.objects()

    @cached_property
    def crowds(self) -> int:
        return int(np.count_nonzero(self.file.iscrowd))

    def _facts(self) -> dict[str, Any]:
        by_class = dict(zip(self.file.class_names, self.objects.tolist(), strict=True))
        return {
            "annotations": str(self.file.path),
            "images": len(self.file),
            "objects": int(self.objects.sum()),
            "images without objects": int(np.count_nonzero(self.of_image == 0)),
            "crowd regions": self.crowds,
            "objects by size": dict(zip(SIZES, self.objects.sum(axis=0).tolist(), strict=True)),
            "objects by class and size": {
                name: dict(zip(SIZES, counts, strict=True)) for name, counts in by_class.items()
            },
        }

    def _words(self) -> list[str]:
        occurring, negatives = np.count_nonzero(self.objects.any(axis=1)), np.count_nonzero(self.of_image == 0)
        words = [f"{len(self.file):,} images, {self.objects.sum():,} objects of {occurring:,} classes"]
        if negatives:
            left_out = ", left out" if self.drops_empty else ""
            words.append(f"{negatives:,} images without objects{left_out}")
        if self.crowds:
            words.append(f"{self.crowds:,} crowd regions{' left out' * (self.split == 'training')}")
        return words

    def _lost(self) -> list[Finding | None]:
        """What no detector learns from, by its cause; one box may be lost for one cause only."""
        file, crowd = self.file, self.file.iscrowd
        many = self.crowds > MANY_CROWDS * len(crowd)
        empty = ~crowd & (self.flags & Doubt.EMPTY != 0)
        leaves_out = "training leaves them out" if self.split == "training" else "no detector finds them"
        return [
            self._finding(
                "crowd",
                "warning" if many else "note",
                crowd,
                "annotations are crowd regions; "
                + ("training leaves them out" if self.split == "training" else "the metric ignores what is found there")
                + "; CVAT marks every brush mask so: set iscrowd to 0 where it is one object" * many,
            ),
            self._finding("empty", "warning", empty, f"boxes have no area inside their image; {leaves_out}"),
            self._thin_after_resizing() if self.split == "training" else None,
            file.missing_areas(),
            self._finding("thin", "note", self._objects(Doubt.THIN), "objects are less than a pixel wide or high"),
        ]

    def _doubtful(self) -> list[Finding | None]:
        """What reads as something else than COCO's boxes, which are x, y, width, height in pixels."""
        unit, leaves = (self.flags & Doubt.UNIT) != 0, (self.flags & Doubt.LEAVES) != 0
        all_unit = len(unit) > 0 and bool(unit.all())
        corners = not all_unit and self._are_corners()
        sticks_out = (self.flags & Doubt.STICKS_OUT) != 0
        found = self._finding
        return [
            found("normalized", "error", unit, "boxes lie in 0..1, expected pixels; multiply them by the image's size")
            if all_unit
            else found("normalized", "note", unit, "boxes lie in 0..1, within the first pixel"),
            found("corners", "error", sticks_out, f"boxes leave their image, and all would fit as corners; {_CORNERS}")
            if corners
            else found("leaves", "warning", leaves, f"boxes lie mostly outside their image; {_CORNERS}"),
            found("repeated", "warning", self._objects(Doubt.REPEATED), "objects repeat one of the same class and box"),
        ]

    def _uneven(self) -> list[Finding | None]:
        """Classes that never occur, and images with more objects than the metric counts."""
        never = np.flatnonzero(~self.objects.any(axis=1))
        training = self.split == "training"
        consequence = "cannot be learnt" if training else "have no score and do not count in the mean"
        return [
            self._of_names(
                "absent_class",
                "warning" if training and self.whole_file else "note",
                [self.file.class_names[label] for label in never],
                len(self.objects),
                f"classes have no object here: they {consequence}",
            ),
            None
            if training
            else self._of_names(
                "many_objects",
                "warning",
                [self.file.file_names[image] for image in np.flatnonzero(self.of_image > COUNTED)],
                len(self.file),
                f"images have more than {COUNTED} objects, the detections of an image that COCO's metric counts: the "
                "others are missed however good the detector",
            ),
        ]

    def _stopping(self, findings: Sequence[Finding]) -> list[Finding]:
        """The one error of a split without anything to train on or to score; the rest follows from it."""
        if any(finding.kind == "normalized" and finding.severity == "error" for finding in findings):
            return [finding for finding in findings if finding.kind == "normalized"]
        causes = [finding for finding in findings if finding.kind in ("crowd", "empty", "thin_after_resizing")]
        total = len(self.file.boxes)
        if sum(cause.count for cause in causes) < total:
            return []
        purpose = "to train on" if self.split == "training" else "to score"
        reasons = "; ".join(f"{cause.count} {cause.text}" for cause in causes)
        text = f"annotations are left as objects {purpose}: {reasons}"
        return [Finding("no_objects", "error", str(self.file.path), 0, total, text)]

    def _thin_after_resizing(self) -> Finding | None:
        """Objects that the input's size, that of validation, leaves less than a pixel of."""
        scale = self._scale()
        rows: list[int] = []
        for image in np.flatnonzero((self.thinnest * scale < 1).any(axis=1)):
            where = self.file.of_image(int(image))
            corners = clipped_corners(self.file.boxes[where], self.file.sizes[image])
            extent = (corners[:, 2:] - corners[:, :2]) * scale[image, ::-1]
            rows += (where.start + np.flatnonzero((extent < 1).any(axis=1) & self.is_object[where])).tolist()
        lost = np.zeros(len(self.flags), bool)
        lost[rows] = True
        text = "objects are less than a pixel wide or high at the input's size; training leaves them out"
        return self._finding("thin_after_resizing", "warning", lost, text)

    def _scale(self) -> NDArray[np.float64]:
        """(I, 2) factors by which height and width of each image are resized for validation."""
        geometry = next(transform for transform in self.transforms if isinstance(transform, ResizeAndCrop))
        resized = self.file.sizes if self.part is None else np.minimum(self.file.sizes, self.part)
        sizes, image = np.unique(resized[:, 0] << 32 | resized[:, 1], return_inverse=True)
        windows = [geometry.draw_window(divmod(size, 1 << 32), None, _NO_BOXES) for size in sizes.tolist()]
        return np.array([(window.size[0] / window.height, window.size[1] / window.width) for window in windows])[image]

    def _are_corners(self) -> bool:
        """Whether the boxes are x1, y1, x2, y2: many leave their image, and read as corners all of them fit."""
        sticks_out = np.count_nonzero(self.flags & Doubt.STICKS_OUT)
        fits = bool((self.flags & Doubt.CORNERS).all()) and len(self.flags) > 0
        return fits and bool(sticks_out > MANY_STICK_OUT * len(self.flags))

    def _objects(self, doubt: Doubt) -> NDArray[np.bool_]:
        return self.is_object & (self.flags & doubt != 0)

    def _count_objects(self) -> NDArray[np.int64]:
        file = self.file
        return count_objects(file.labels[self.is_object], file.area[self.is_object], len(file.class_names))

    def _finding(self, kind: str, severity: Severity, rows: NDArray[np.bool_], text: str) -> Finding | None:
        """A finding on some of the annotations, or None where it is none of them."""
        found = np.flatnonzero(rows)
        if not len(found):
            return None
        shown = self.file.annotation_ids[found[: EXAMPLES + 1]].tolist()
        where = str(self.file.path)
        return Finding(kind, severity, where, len(found), len(rows), text, [f"annotation {number}" for number in shown])

    def _of_names(self, kind: str, severity: Severity, names: Sequence[str], total: int, text: str) -> Finding | None:
        """A finding on some images or classes, or None where it is none of them."""
        if not names:
            return None
        return Finding(kind, severity, str(self.file.path), len(names), total, text, names[: EXAMPLES + 1])


_NO_BOXES = np.zeros((0, 4), np.float32)
