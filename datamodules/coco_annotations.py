"""A COCO annotation file, checked once and kept as packed columns that all processes share."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from datamodules.annotation_store import Column, Columns, WriteBytes, load_columns
from datamodules.coco_columns import Texts, clipped_corners
from datamodules.coco_json import read_columns
from datamodules.errors import DataError
from datamodules.findings import EXAMPLES, Finding
from datamodules.instances import encode_mask, is_usable


class AnnotationFile:
    """Images, boxes and categories of one `instances_*.json`.

    The json is read and checked once; from then on the columns are mapped from the annotation cache (see
    `annotation_store`), read-only, so that processes share their memory and a start takes no time. All annotations
    are ordered by image.

    Attributes:
        path: The json file.
        category_ids: Original category ids in increasing order; position = label.
        class_names: Names of the categories, position = label.
        image_ids: (I,) ids of the images in increasing order.
        file_names: I file names relative to the images folder.
        sizes: (I, 2) int64 height and width.
        annotation_ids: (A,) int64.
        boxes: (A, 4) float64 xywh in pixels, exactly as in the file.
        labels: (A,) int64 in 0..K-1.
        area: (A,) float64, from the file. Where it says none, width by height of the box; after `check_masks`, the area
            of the mask.
        iscrowd: (A,) bool.
        first: (I + 1,) annotations of image i are first[i]..first[i + 1] - 1.
    """

    def __init__(self, path: Path, max_images: int | None = None) -> None:
        """Opens the file. Warns of boxes that have no area inside their image, and of missing areas.

        Args:
            path: The json file.
            max_images: Keep only the images with the lowest ids.

        Raises:
            DataError: The file is missing, is not a COCO annotation file, or contradicts itself.
        """
        if not path.is_file():
            raise DataError(
                f"no COCO annotation file at {path}; expected ROOT/annotations/instances_train2017.json, "
                "instances_val2017.json, ROOT/train2017/ and ROOT/val2017/ as in COCO's own archives; "
                "set --data.root, or write the sample data set with: "
                "python -m datamodules.shapes --root data/shapes"
            )
        self._open(path, max_images, load_columns(path, read_columns))
        self._warn_of_empty_boxes()
        if missing := self.missing_areas():
            warnings.warn(str(missing), stacklevel=2)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    def of_image(self, position: int) -> "slice":
        """The slice of the annotation columns that belongs to an image."""
        return slice(int(self.first[position]), int(self.first[position + 1]))

    def objects(self) -> NDArray[np.int64]:
        """(I,) objects of each image: annotations that are no crowd and have a box with area inside it."""
        usable = ~self.iscrowd
        usable[self._empty_boxes] = False
        return np.diff(np.concatenate([[0], np.cumsum(usable)])[self.first])

    def missing_areas(self) -> Finding | None:
        """How many annotations of the file have no area, if any."""
        if not len(self._without_area):
            return None
        ids = list(map(str, self.annotation_ids[self._without_area[: EXAMPLES + 1]].tolist()))
        text = (
            "annotations have no area; that of their box, width x height, is taken, or where masks are read the mask's"
        )
        return Finding("no_area", "note", str(self.path), len(self._without_area), len(self.boxes), text, ids)

    def check_masks(self) -> None:
        """Looks whether every annotation has a mask; takes seconds for train2017, and no time once it is in the cache.

        From then on, an area that the file does not say is that of the mask.

        Raises:
            DataError: Some have none that is usable.
        """
        masks = load_columns(self.path, self._look_through_masks, "-masks")
        unusable = masks.arrays["unusable"]
        unusable = unusable[unusable < len(self.boxes)]
        if len(unusable):
            row = int(unusable[0])
            found = json.dumps(self.segmentation(row))
            height, width = self.sizes[np.searchsorted(self.first, row, side="right") - 1]
            raise DataError(
                f"{self.path}: {len(unusable)} of {len(self.boxes)} annotations have no mask; annotation "
                f"{self.annotation_ids[row]} has segmentation {found if len(found) <= 100 else f'{found[:97]}...'}, "
                f"expected polygons of three corners or more, or a run-length code of {height} x {width} pixels; "
                "correct them or take them out, or train a detector without masks"
            )
        self._open(self.path, self._max_images, self._columns, masks)

    def segmentation(self, annotation: int) -> Any:
        """The mask of an annotation as it stands in the file.

        Args:
            annotation: Row of the annotation columns.

        Returns:
            Polygons `[[x, y, x, y, ...], ...]` in pixels, a run-length code `{"size": [height, width], "counts": ...}`
            (compressed text or list of numbers), or None where the annotation has none.
        """
        start, length = self._segmentation_starts[annotation], self._segmentation_lengths[annotation]
        return json.loads(self._blob[start : start + length].tobytes() or "null")

    def _look_through_masks(self, source: Path, write: WriteBytes) -> Mapping[str, Column]:
        """Rows of all annotations of the file without a mask, whatever `max_images`; areas, if the file lacks some."""
        arrays = load_columns(source, read_columns).arrays  # those of the content under whose digest this is stored
        blob = arrays["blob"].data
        ends = arrays["segmentation_starts"] + arrays["segmentation_lengths"]
        texts = [slice(*edges) for edges in zip(arrays["segmentation_starts"].tolist(), ends.tolist(), strict=True)]
        sizes = [tuple(size) for size in arrays["sizes"].tolist()]
        edges, without_area = arrays["first"].tolist(), arrays["without_area"]
        unusable = [
            row
            for size, first, last in zip(sizes, edges[:-1], edges[1:], strict=True)
            for row in range(first, last)
            if not is_usable(blob[texts[row]], size)
        ]
        area = arrays["area"].copy()
        for row in np.setdiff1d(without_area, unusable).tolist():
            image = int(np.searchsorted(arrays["first"], row, side="right")) - 1
            area[row] = coco_mask.area(encode_mask(json.loads(bytes(blob[texts[row]])), sizes[image]))
        return {"unusable": np.array(unusable, np.int64), "area": area if len(without_area) else area[:0]}

    def __getstate__(self) -> dict[str, Any]:
        """Without the columns, which a spawned worker maps again."""
        return {"path": self.path, "max_images": self._max_images, "columns": self._columns, "masks": self._masks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Counterpart of `__getstate__`."""
        self._open(**state)

    def _open(self, path: Path, max_images: int | None, columns: Columns, masks: Columns | None = None) -> None:
        self.path, self._max_images, self._columns, self._masks = path, max_images, columns, masks
        arrays = columns.arrays
        self.category_ids: list[int] = arrays["category_ids"].tolist()
        self.class_names = Texts(arrays["class_names"], arrays["class_names_ends"]).tolist()
        self.image_ids: NDArray[np.int64] = arrays["image_ids"][:max_images]
        self.file_names = Texts(arrays["file_names"], arrays["file_names_ends"][:max_images])
        self.sizes: NDArray[np.int64] = arrays["sizes"][:max_images]
        self.first: NDArray[np.int64] = arrays["first"][: len(self.image_ids) + 1]
        count = self.first[-1]
        self.annotation_ids: NDArray[np.int64] = arrays["annotation_ids"][:count]
        self.boxes: NDArray[np.float64] = arrays["boxes"][:count]
        self.labels: NDArray[np.int64] = arrays["labels"][:count]
        of_masks = masks is not None and len(masks.arrays["area"]) > 0
        self.area: NDArray[np.float64] = (masks.arrays if masks and of_masks else arrays)["area"][:count]
        self.iscrowd: NDArray[np.bool_] = arrays["iscrowd"][:count]
        self._segmentation_starts: NDArray[np.int64] = arrays["segmentation_starts"][:count]
        self._segmentation_lengths: NDArray[np.int64] = arrays["segmentation_lengths"][:count]
        self._blob: NDArray[np.uint8] = arrays["blob"]
        self._without_area: NDArray[np.int64] = arrays["without_area"][arrays["without_area"] < count]
        self._empty_boxes: NDArray[np.int64] = arrays["empty_boxes"][arrays["empty_boxes"] < count]

    def _warn_of_empty_boxes(self) -> None:
        if len(empty := self._empty_boxes):
            ids = ", ".join(map(str, self.annotation_ids[empty[:5]].tolist())) + (", ..." if len(empty) > 5 else "")
            warnings.warn(
                f"{self.path}: {len(empty)} of {len(self.boxes)} boxes have no area inside their image; training "
                f"leaves them out: annotations {ids}",
                stacklevel=3,
            )


__all__ = ["AnnotationFile", "clipped_corners"]
