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
from numpy.typing import NDArray

from datamodules.coco_columns import LONGEST_SIDE, Records, names_a_file
from datamodules.errors import DataError
from datamodules.json_content import read_json

Record = dict[str, Any]


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
        content = read_json(self.path)
        if not isinstance(content, dict):
            found = type(content).__name__
            raise DataError(f"{self.path} holds a {found}, expected a COCO instances file (a json object)")
        categories = self._records(content, "categories")
        class_names = self._column("category", categories, "name", _is_name, "str with a name in it")
        self._check_unique("category names", class_names)
        images = self._records(content, "images")
        file_names = self._column("image", images, "file_name", _is_text, "str")
        self._column("image", images, "file_name", names_a_file, "the path of a file inside the images folder")
        sizes = [
            self._column("image", images, side, _is_side, f"int in 1..{LONGEST_SIDE}") for side in ("height", "width")
        ]
        annotations = self._records(content, "annotations", may_be_empty=True)
        self._check_references(annotations, "image_id", images)
        self._check_references(annotations, "category_id", categories)
        boxes = self._column("annotation", annotations, "bbox", _is_box, "four finite numbers x, y, width, height")
        area = self._column("annotation", annotations, "area", _is_area, "finite int or float")
        iscrowd = self._column("annotation", annotations, "iscrowd", _is_flag, "int", default=0)
        segmentations = [
            json.dumps(record["segmentation"]).encode() if "segmentation" in record else b"" for record in annotations
        ]
        write(b"".join(segmentations))
        return Records(
            category_ids=_ids(categories),
            class_names=class_names,
            image_ids=_ids(images),
            file_names=file_names,
            sizes=np.array(sizes, dtype=np.int64).T,
            annotation_ids=_ids(annotations),
            image_of=_ids(annotations, "image_id"),
            category_of=_ids(annotations, "category_id"),
            boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
            area=np.array(area, dtype=np.float64),
            iscrowd=np.array(iscrowd, dtype=bool),
            lengths=np.array([len(text) for text in segmentations], dtype=np.int64),
        )

    def _records(self, content: Record, key: str, may_be_empty: bool = False) -> list[Record]:
        """One of the lists of the file."""
        records = content.get(key)
        if not isinstance(records, list) or not (records or may_be_empty):
            raise DataError(
                f"{self.path} has no {key!r}; expected a COCO instances file with images, annotations and categories"
            )
        for position, record in enumerate(records):
            number = record.get("id") if isinstance(record, dict) else record
            if number is record or not _is_id(number):
                raise DataError(
                    f"{self.path}: entry {position} of {key!r} has no integer id of 64 bits, found {_short(number)}; "
                    "expected a COCO record"
                )
        self._check_unique(f"ids of {key}", [record["id"] for record in records])
        return records

    def _column(
        self,
        kind: str,
        records: list[Record],
        key: str,
        is_right: Callable[[Any], bool],
        expected: str,
        default: object = None,
    ) -> list[Any]:
        """One entry of all records."""
        values = [record.get(key, default) for record in records]
        for record, value in zip(records, values, strict=True):
            if not is_right(value):
                found = f"{kind} {record['id']} has {key} {_short(value)}"
                raise DataError(f"{self.path}: {found}, expected {expected}; correct it or take it out")
        return values

    def _check_unique(self, what: str, values: list[Any]) -> None:
        repeated = [value for value, count in Counter(values).items() if count > 1]
        if repeated:
            raise DataError(f"{self.path}: {what} occur twice: {_short(repeated[:5])}; every one must be unique")

    def _check_references(self, annotations: list[Record], key: str, owners: list[Record]) -> None:
        known = {owner["id"] for owner in owners}
        for record, value in zip(annotations, self._column("annotation", annotations, key, _is_id, "int"), strict=True):
            if value not in known:
                raise DataError(
                    f"{self.path}: annotation {record['id']} has unknown {key} {value}; add its entry or take it out"
                )


def _ids(records: list[Record], key: str = "id") -> NDArray[np.int64]:
    return np.array([record[key] for record in records], dtype=np.int64)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_id(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63  # true is no id, though Python calls it an integer


def _is_side(value: object) -> bool:
    return type(value) is int and 1 <= value <= LONGEST_SIDE


def _is_flag(value: object) -> bool:
    return isinstance(value, int)  # true and false are as good as 1 and 0


def _is_finite(value: object) -> bool:
    # The comparison holds for integers that no float can represent, and is false for NaN.
    return isinstance(value, int | float) and -sys.float_info.max <= value <= sys.float_info.max


def _is_area(value: object) -> bool:
    return value is None or _is_finite(value)


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_finite, value))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
