"""A COCO annotation file, checked once and kept as packed columns."""

import json
import math
import warnings
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import DataError

Record = dict[str, Any]


class AnnotationFile:
    """Images, boxes and categories of one `instances_*.json`.

    Columns of all annotations lie in one array each, ordered by image, so that loader processes share their memory.

    Attributes:
        path: The json file.
        category_ids: Original category ids in increasing order; position = label.
        class_names: Names of the categories, position = label.
        image_ids: (I,) ids of the images in increasing order.
        file_names: (I,) file names relative to the images folder.
        sizes: (I, 2) height and width.
        boxes: (A, 4) float64 xywh in pixels, exactly as in the file.
        labels: (A,) int64 in 0..K-1.
        area: (A,) float64, from the file.
        iscrowd: (A,) bool.
        first: (I + 1,) annotations of image i are first[i]..first[i + 1] - 1.
    """

    def __init__(self, path: Path, max_images: int | None = None) -> None:
        """Reads and checks the file. Warns of boxes that have no area inside their image.

        Args:
            path: The json file.
            max_images: Keep only the images with the lowest ids.

        Raises:
            DataError: The file is missing, is not a COCO annotation file, or contradicts itself.
        """
        self.path = path
        content = _read_json(path)
        categories = self._records(content, "categories")
        self.category_ids: list[int] = self._column("category", categories, "id", int)
        self.class_names: list[str] = self._column("category", categories, "name", str)
        self._check_unique("category names", self.class_names)

        images = self._records(content, "images")
        known = set(self._column("image", images, "id", int))
        images = images[:max_images]
        self.image_ids = np.array([record["id"] for record in images], dtype=np.int64)
        self.file_names = np.array([self._safe_name(name) for name in self._column("image", images, "file_name", str)])
        self.sizes = np.array([self._column("image", images, side, int) for side in ("height", "width")]).T
        self._pack_annotations(self._records(content, "annotations", may_be_empty=True), known)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    def of_image(self, position: int) -> "slice":
        """The slice of the annotation columns that belongs to an image."""
        return slice(int(self.first[position]), int(self.first[position + 1]))

    def _pack_annotations(self, annotations: list[Record], known: set[int]) -> None:
        label_of = {category: label for label, category in enumerate(self.category_ids)}
        position_of = {image_id: position for position, image_id in enumerate(self.image_ids.tolist())}
        self._check_references(annotations, "image_id", known)
        self._check_references(annotations, "category_id", set(label_of))
        kept = [record for record in annotations if record["image_id"] in position_of]
        kept.sort(key=lambda record: position_of[record["image_id"]])
        positions = np.array([position_of[record["image_id"]] for record in kept], dtype=np.int64)
        self.first = np.searchsorted(positions, np.arange(len(self) + 1))
        self.boxes = np.array(self._box_column(kept), dtype=np.float64).reshape(-1, 4)
        self.labels = np.array([label_of[record["category_id"]] for record in kept], dtype=np.int64)
        self.area = np.array(self._column("annotation", kept, "area", int, float), dtype=np.float64)
        self.iscrowd = np.array(self._column("annotation", kept, "iscrowd", int, default=0), dtype=bool)
        self._warn_of_empty_boxes(kept, self.sizes[positions])

    def _records(self, content: Record, key: str, may_be_empty: bool = False) -> list[Record]:
        """One of the lists of the file, by increasing id."""
        records = content.get(key)
        if not isinstance(records, list) or not (records or may_be_empty):
            raise DataError(
                f"{self.path} has no {key!r}; expected a COCO instances file with images, annotations and categories"
            )
        for position, record in enumerate(records):
            if not isinstance(record, dict) or not isinstance(record.get("id"), int):
                raise DataError(f"{self.path}: entry {position} of {key!r} has no integer id; expected a COCO record")
        self._check_unique(f"ids of {key}", [record["id"] for record in records])
        return sorted(records, key=lambda record: record["id"]) if key != "annotations" else records

    def _column(self, kind: str, records: list[Record], key: str, *types: type, default: object = None) -> list[Any]:
        """One entry of all records."""
        values = [record.get(key, default) for record in records]
        for record, value in zip(records, values, strict=True):
            if not isinstance(value, types) or value != value:  # NaN differs from itself
                expected = " or ".join(one.__name__ for one in types)
                raise DataError(
                    f"{self.path}: {kind} {record['id']} has {key} {_short(value)}, expected {expected}; "
                    "correct the file"
                )
        return values

    def _box_column(self, records: list[Record]) -> list[list[float]]:
        boxes = [record.get("bbox") for record in records]
        for record, box in zip(records, boxes, strict=True):
            if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
                raise DataError(
                    f"{self.path}: annotation {record['id']} has bbox {_short(box)}, expected four finite numbers "
                    "x, y, width, height; correct it or take it out"
                )
        return boxes  # type: ignore[return-value]  # no None is left

    def _check_unique(self, what: str, values: list[Any]) -> None:
        repeated = [value for value, count in Counter(values).items() if count > 1]
        if repeated:
            raise DataError(f"{self.path}: {what} occur twice: {_short(repeated[:5])}; every one must be unique")

    def _check_references(self, annotations: list[Record], key: str, known: set[int]) -> None:
        for record, value in zip(annotations, self._column("annotation", annotations, key, int), strict=True):
            if value not in known:
                raise DataError(
                    f"{self.path}: annotation {record['id']} has unknown {key} {value}; add its entry or take it out"
                )

    def _safe_name(self, name: str) -> str:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{self.path}: file_name {name!r} leaves the images folder; expected a relative path in it")
        return name

    def _warn_of_empty_boxes(self, records: list[Record], sizes: NDArray[np.int64]) -> None:
        corners = clipped_corners(self.boxes, sizes)
        empty = np.flatnonzero((corners[:, 2:] <= corners[:, :2]).any(axis=1))
        if len(empty):
            ids = ", ".join(str(records[row]["id"]) for row in empty[:5]) + (", ..." if len(empty) > 5 else "")
            warnings.warn(
                f"{self.path}: {len(empty)} of {len(records)} boxes have no area inside their image; training leaves "
                f"them out: annotations {ids}",
                stacklevel=2,
            )


def clipped_corners(boxes: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Turns boxes (N, 4) xywh into xyxy clipped to images of the given height and width, (2,) or (N, 2)."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return corners.clip(0, sizes[..., [1, 0, 1, 0]])


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _read_json(path: Path) -> Record:
    if not path.is_file():
        raise DataError(
            f"no COCO annotation file at {path}; expected ROOT/annotations/instances_train2017.json, "
            "instances_val2017.json, ROOT/train2017/ and ROOT/val2017/ as in COCO's own archives (cocodataset.org); "
            "set --data.root, or write the sample data set with: python -m datamodules.shapes --root data/shapes"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not a json file ({error}); it may be truncated, copy it again") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, expected a COCO instances file (a json object)")
    return content
