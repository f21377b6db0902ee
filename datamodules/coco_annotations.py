"""A COCO annotation file, checked once and kept as packed columns."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datamodules.errors import DataError


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
        """Reads and checks the file.

        Args:
            path: The json file.
            max_images: Keep only the images with the lowest ids.

        Raises:
            DataError: The file is missing, is not a COCO annotation file, or contradicts itself.
        """
        self.path = path
        content = _read_json(path)
        categories = sorted(self._records(content, "categories"), key=lambda record: record["id"])
        self.category_ids = [int(record["id"]) for record in categories]
        self.class_names = [str(record["name"]) for record in categories]
        self._check_unique("category", self.category_ids)

        images = sorted(self._records(content, "images"), key=lambda record: record["id"])
        self._check_unique("image", [record["id"] for record in images])
        known = {record["id"] for record in images}
        images = images[:max_images]
        self.image_ids = np.array([record["id"] for record in images], dtype=np.int64)
        self.file_names = np.array([self._safe_name(str(record["file_name"])) for record in images])
        self.sizes = np.array([(record["height"], record["width"]) for record in images], dtype=np.int64)
        self._pack_annotations(content.get("annotations", []), known)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    def _pack_annotations(self, annotations: list[dict[str, Any]], known: set[int]) -> None:
        self._check_unique("annotation", [record["id"] for record in annotations])
        label_of = {category: label for label, category in enumerate(self.category_ids)}
        position_of = {int(image_id): position for position, image_id in enumerate(self.image_ids)}
        for record in annotations:
            if record["image_id"] not in known:
                raise DataError(
                    f"{self.path}: annotation {record['id']} has image_id {record['image_id']}, not an image"
                )
            if record["category_id"] not in label_of:
                raise DataError(
                    f"{self.path}: annotation {record['id']} has unknown category_id {record['category_id']}"
                )
        kept = sorted(
            (record for record in annotations if record["image_id"] in position_of),
            key=lambda record: position_of[record["image_id"]],
        )
        self.boxes = np.array([record["bbox"] for record in kept], dtype=np.float64).reshape(-1, 4)
        self.labels = np.array([label_of[record["category_id"]] for record in kept], dtype=np.int64)
        self.area = np.array([record["area"] for record in kept], dtype=np.float64)
        self.iscrowd = np.array([record.get("iscrowd", 0) for record in kept], dtype=bool)
        positions = np.array([position_of[record["image_id"]] for record in kept], dtype=np.int64)
        self.first = np.searchsorted(positions, np.arange(len(self) + 1))
        broken = ~np.isfinite(self.boxes).all(axis=1)
        if broken.any():
            record = kept[int(np.argmax(broken))]
            raise DataError(
                f"{self.path}: annotation {record['id']} has bbox {record['bbox']}, expected finite numbers"
            )

    def of_image(self, position: int) -> "slice":
        """The slice of the annotation columns that belongs to an image."""
        return slice(int(self.first[position]), int(self.first[position + 1]))

    def _records(self, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
        records = content.get(key)
        if not isinstance(records, list) or not records:
            raise DataError(f"{self.path} has no {key!r}; expected a COCO instances file with images and categories")
        return records

    def _check_unique(self, kind: str, ids: list[int]) -> None:
        values, counts = np.unique(np.array(ids, dtype=np.int64), return_counts=True)
        repeated = values[counts > 1]
        if len(repeated):
            raise DataError(f"{self.path}: {kind} ids occur twice: {repeated[:5].tolist()}; every id must be unique")

    def _safe_name(self, name: str) -> str:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{self.path}: file_name {name!r} leaves the images folder; expected a relative path in it")
        return name


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(
            f"no COCO annotation file at {path}; expected ROOT/annotations/instances_train2017.json, "
            "instances_val2017.json, ROOT/train2017/ and ROOT/val2017/ as in COCO's own archives (cocodataset.org); "
            "set --data.root, or write the sample data set with: python -m datamodules.shapes --root data/shapes"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not a json file ({error}); it may be truncated, copy it again") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, expected a COCO instances file (a json object)")
    return content
