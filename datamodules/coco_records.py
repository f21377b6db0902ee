"""Reads a COCO file record by record: slowly, but it tells what is wrong with which one.

`coco_json` reads sound files five times faster and hands over what it does not understand.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.coco_columns import Records, leaves_folder
from datamodules.errors import DataError

Record = dict[str, Any]

_LARGEST_INTEGER = 2**63 - 1


def read_records(path: Path, write: Callable[[bytes], object]) -> Records:
    """Reads and checks a file.

    Args:
        path: The json file.
        write: Takes the json text of every segmentation.

    Raises:
        DataError: The file is not a COCO annotation file, or contradicts itself.
    """
    return _Checker(path).read(write)


class _Checker:
    """Checks of one file; it knows the path for the messages."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, write: Callable[[bytes], object]) -> Records:
        content = self._content()
        categories = self._records(content, "categories")
        class_names = self._column("category", categories, "name", str)
        self._check_unique("category names", class_names)
        images = self._records(content, "images")
        file_names = [self._safe_name(name) for name in self._column("image", images, "file_name", str)]
        sizes = np.array([self._integers("image", images, side) for side in ("height", "width")]).T
        annotations = self._records(content, "annotations", may_be_empty=True)
        category_ids, image_ids = self._integers("category", categories, "id"), self._integers("image", images, "id")
        self._check_references(annotations, "image_id", set(image_ids))
        self._check_references(annotations, "category_id", set(category_ids))
        boxes = self._boxes(annotations)
        area = self._column("annotation", annotations, "area", int, float)
        iscrowd = self._column("annotation", annotations, "iscrowd", int, default=0)
        segmentations = [
            json.dumps(record["segmentation"]).encode() if "segmentation" in record else b"" for record in annotations
        ]
        write(b"".join(segmentations))
        return Records(
            category_ids=np.array(category_ids, dtype=np.int64),
            class_names=class_names,
            image_ids=np.array(image_ids, dtype=np.int64),
            file_names=file_names,
            sizes=sizes.astype(np.int64),
            annotation_ids=np.array(self._integers("annotation", annotations, "id"), dtype=np.int64),
            image_of=np.array([record["image_id"] for record in annotations], dtype=np.int64),
            category_of=np.array([record["category_id"] for record in annotations], dtype=np.int64),
            boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
            area=np.array(area, dtype=np.float64),
            iscrowd=np.array(iscrowd, dtype=bool),
            lengths=np.array([len(text) for text in segmentations], dtype=np.int64),
        )

    def _content(self) -> Record:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8-sig"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DataError(f"{self.path} is not a json file ({error}); it may be truncated, copy it again") from None
        if not isinstance(content, dict):
            found = type(content).__name__
            raise DataError(f"{self.path} holds a {found}, expected a COCO instances file (a json object)")
        return content

    def _records(self, content: Record, key: str, may_be_empty: bool = False) -> list[Record]:
        """One of the lists of the file."""
        records = content.get(key)
        if not isinstance(records, list) or not (records or may_be_empty):
            raise DataError(
                f"{self.path} has no {key!r}; expected a COCO instances file with images, annotations and categories"
            )
        for position, record in enumerate(records):
            if not isinstance(record, dict) or not isinstance(record.get("id"), int):
                raise DataError(f"{self.path}: entry {position} of {key!r} has no integer id; expected a COCO record")
        self._check_unique(f"ids of {key}", [record["id"] for record in records])
        return records

    def _column(self, kind: str, records: list[Record], key: str, *types: type, default: object = None) -> list[Any]:
        """One entry of all records."""
        values = [record.get(key, default) for record in records]
        for record, value in zip(records, values, strict=True):
            if not isinstance(value, types) or value != value:  # NaN differs from itself
                raise self._fault(kind, record, key, value, " or ".join(one.__name__ for one in types))
        return values

    def _integers(self, kind: str, records: list[Record], key: str) -> list[int]:
        values = self._column(kind, records, key, int)
        for record, value in zip(records, values, strict=True):
            if abs(value) > _LARGEST_INTEGER:
                raise self._fault(kind, record, key, value, "int of 64 bits")
        return values

    def _fault(self, kind: str, record: Record, key: str, value: object, expected: str) -> DataError:
        found = f"{kind} {_short(record['id'])} has {key} {_short(value)}"
        return DataError(f"{self.path}: {found}, expected {expected}; correct the file")

    def _boxes(self, records: list[Record]) -> list[list[float]]:
        boxes: list[list[float]] = []
        for record in records:
            box = record.get("bbox")
            if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
                raise DataError(
                    f"{self.path}: annotation {record['id']} has bbox {_short(box)}, expected four finite numbers "
                    "x, y, width, height; correct it or take it out"
                )
            boxes.append(box)
        return boxes

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
        if leaves_folder(name):
            raise DataError(f"{self.path}: file_name {name!r} leaves the images folder; expected a relative path in it")
        return name


def _is_finite(value: object) -> bool:
    # The comparison holds for integers that no float can represent, and is false for NaN.
    return isinstance(value, int | float) and -sys.float_info.max <= value <= sys.float_info.max


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
