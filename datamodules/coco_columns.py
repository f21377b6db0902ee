"""From records as they stand in a COCO file to the columns that data sets read."""

import os
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]

LONGEST_SIDE = 2**31 - 1
"""Pixels; no image format allows more."""


class Records(NamedTuple):
    """Checked content of a file, everything in the order of the file.

    Attributes:
        category_ids: (K,) int64.
        class_names: K names.
        image_ids: (I,) int64.
        file_names: I names.
        sizes: (I, 2) int64 height and width.
        annotation_ids: (A,) int64.
        image_of: (A,) int64 image id.
        category_of: (A,) int64 category id.
        boxes: (A, 4) float64 xywh.
        area: (A,) float64; not a number where there is none.
        iscrowd: (A,) bool.
        lengths: (A,) int64, bytes of each segmentation's json text; 0 where there is none.
    """

    category_ids: NDArray[np.int64]
    class_names: list[str]
    image_ids: NDArray[np.int64]
    file_names: list[str]
    sizes: NDArray[np.int64]
    annotation_ids: NDArray[np.int64]
    image_of: NDArray[np.int64]
    category_of: NDArray[np.int64]
    boxes: NDArray[np.float64]
    area: NDArray[np.float64]
    iscrowd: NDArray[np.bool_]
    lengths: NDArray[np.int64]


class Texts(Sequence[str]):
    """Texts in one array of bytes.

    An array of numpy texts would give all of them the length of the longest, and a list would be copied to every
    worker as soon as that counts references.

    Args:
        content: (N,) uint8, UTF-8 of all texts.
        ends: (I,) int64, where each ends.
    """

    def __init__(self, content: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.content, self.ends = content, ends

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, position: Any) -> Any:
        """One text."""
        position = range(len(self))[position]
        start = self.ends[position - 1] if position else 0
        return self.content[start : self.ends[position]].tobytes().decode(errors="surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def tolist(self) -> list[str]:
        """All texts."""
        return list(self)


def pack(records: Records) -> Columns:
    """Orders images and categories by id and annotations by image, stably."""
    by_category, by_image = np.argsort(records.category_ids), np.argsort(records.image_ids)
    category_ids, image_ids = records.category_ids[by_category], records.image_ids[by_image]
    sizes = records.sizes[by_image]
    position = np.searchsorted(image_ids, records.image_of)
    order = np.argsort(position, kind="stable")
    position, boxes, area = position[order], records.boxes[order], records.area[order]
    without_area = np.flatnonzero(np.isnan(area))
    area[without_area] = _box_areas(boxes[without_area])
    return {
        "category_ids": category_ids,
        **_packed_texts("class_names", [records.class_names[row] for row in by_category]),
        "image_ids": image_ids,
        **_packed_texts("file_names", [records.file_names[row] for row in by_image]),
        "sizes": sizes,
        "first": np.searchsorted(position, np.arange(len(image_ids) + 1)),
        "annotation_ids": records.annotation_ids[order],
        "boxes": boxes,
        "labels": np.searchsorted(category_ids, records.category_of[order]),
        "area": area,
        "without_area": without_area,
        "iscrowd": records.iscrowd[order],
        "segmentation_starts": (np.cumsum(records.lengths) - records.lengths)[order],
        "segmentation_lengths": records.lengths[order],
        "empty_boxes": np.concatenate(list(_empty_boxes(boxes, sizes, position))),
    }


def _box_areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Width by height; 0 where a side is negative."""
    with np.errstate(over="ignore"):
        return np.minimum(boxes[:, 2:].clip(min=0).prod(axis=1), np.finfo(np.float64).max)


def _empty_boxes(
    boxes: NDArray[np.float64], sizes: NDArray[np.int64], position: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Rows of boxes without area inside their image, in blocks whose temporary arrays fit the processor's cache."""
    for start in range(0, max(len(boxes), 1), 1 << 13):
        rows = slice(start, start + (1 << 13))
        corners = clipped_corners(boxes[rows], sizes[position[rows]])
        yield start + np.flatnonzero((corners[:, 2:] <= corners[:, :2]).any(axis=1))


def _packed_texts(name: str, texts: list[str]) -> Columns:
    encoded = [text.encode(errors="surrogatepass") for text in texts]
    ends = np.cumsum(np.array([len(text) for text in encoded], dtype=np.int64))
    return {name: np.frombuffer(b"".join(encoded), dtype=np.uint8), f"{name}_ends": ends}


def clipped_corners(boxes: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Turns boxes (N, 4) xywh into xyxy clipped to images of the given height and width, (2,) or (N, 2)."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return corners.clip(0, sizes[..., [1, 0, 1, 0]])


def names_a_file(name: str) -> bool:
    """Whether a file name can be that of a file inside the images folder, and be shown in one line."""
    if name and ".." not in name and name[0] not in "./ " and name[-1] != "/" and name.isascii() and name.isprintable():
        return True  # nearly all of them, without taking the path apart
    path = PurePosixPath(name)
    inside = bool(path.name.strip()) and not path.is_absolute() and ".." not in path.parts and name[-1] != "/"
    return inside and len(name.splitlines()) == 1 and "\0" not in name and _is_encodable(name)


def _is_encodable(name: str) -> bool:
    try:
        return bool(os.fsencode(name))
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
