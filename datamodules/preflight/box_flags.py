"""What is doubtful about each box of an annotation file: a byte for each, kept beside the columns in the cache."""

from collections.abc import Mapping
from enum import IntFlag
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.annotation_store import Column, WriteBytes, load_columns
from datamodules.coco_columns import clipped_corners
from datamodules.coco_json import read_columns

Arrays = Mapping[str, NDArray[Any]]

SIZES = ("small", "medium", "large")
"""COCO's sizes of objects: an area below 32 x 32 pixels, below 96 x 96, and others."""
_SIZE_BOUNDS = (32.0**2, 96.0**2)
_BLOCK = 1 << 15
_MIX = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5, 0xFF51AFD7ED558CCD], np.uint64
)


class Doubt(IntFlag):
    """Of a box (x, y, w, h) in an image of W x H pixels."""

    EMPTY = 1
    """No area inside the image."""
    THIN = 2
    """Some, but less than one pixel wide or high."""
    LEAVES = 4
    """Some, but less than half of its own."""
    STICKS_OUT = 8
    """By more than a pixel."""
    CORNERS = 16
    """Would lie within the image if it were x1, y1, x2, y2."""
    UNIT = 32
    """All four numbers are in 0..1."""
    REPEATED = 64
    """An object before it in the image has the same class and box."""


def load_flags(source: Path) -> Arrays:
    """The columns `flags` (A,) uint8, `thinnest` (I, 2) and `objects` (K, 3) of a file; no work once they are cached.

    `thinnest` is the least height and width of the objects of an image, inf where it has none; an object is no crowd
    region and has area inside its image. `objects` counts them by class and COCO's size.

    Raises:
        DataError: The file is not a COCO annotation file.
    """

    def build(source: Path, write: WriteBytes) -> Mapping[str, Column]:
        return flag_boxes(load_columns(source, read_columns).arrays)

    return load_columns(source, build, "-boxes").arrays


def flag_boxes(arrays: Arrays) -> dict[str, Column]:
    """Makes the columns of `load_flags` from those of the file."""
    position = np.repeat(np.arange(len(arrays["image_ids"])), np.diff(arrays["first"]))
    boxes, sizes, is_object = arrays["boxes"], arrays["sizes"], ~arrays["iscrowd"]
    flags = np.zeros(len(boxes), np.uint8)
    thinnest = np.full((len(sizes), 2), np.inf)
    for start in range(0, len(boxes), _BLOCK):  # temporary arrays fit the processor's cache
        rows = slice(start, start + _BLOCK)
        flags[rows], inside = _flag_block(boxes[rows], sizes[position[rows]])
        usable = is_object[rows] & (flags[rows] & Doubt.EMPTY == 0)
        np.minimum.at(thinnest, position[rows][usable], inside[usable])
    flags[_repeated(position, arrays["labels"], boxes, np.flatnonzero(is_object))] |= np.uint8(Doubt.REPEATED)
    usable = is_object & (flags & Doubt.EMPTY == 0)
    return {
        "flags": flags,
        "thinnest": thinnest,
        "objects": count_objects(arrays["labels"][usable], arrays["area"][usable], len(arrays["category_ids"])),
    }


def count_objects(labels: NDArray[np.int64], area: NDArray[np.float64], num_classes: int) -> NDArray[np.int64]:
    """(K, 3) objects of each class and of each of COCO's sizes."""
    size = np.searchsorted(_SIZE_BOUNDS, area, side="right")
    return np.bincount(labels * len(SIZES) + size, minlength=num_classes * len(SIZES)).reshape(-1, len(SIZES))


def _flag_block(boxes: NDArray[np.float64], sizes: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Flags, and height and width of what lies inside the image."""
    corner, extent, limit = boxes[:, :2], boxes[:, 2:], sizes[:, ::-1]
    clipped = clipped_corners(boxes, sizes)
    inside = clipped[:, 2:] - clipped[:, :2]
    is_empty = (inside <= 0).any(axis=1)
    begins = (corner >= -1).all(axis=1)
    doubts = {
        Doubt.EMPTY: is_empty,
        Doubt.THIN: ~is_empty & (inside < 1).any(axis=1),
        Doubt.LEAVES: ~is_empty & (inside.prod(axis=1) < extent.prod(axis=1) / 2),
        Doubt.STICKS_OUT: ~(begins & (corner + extent <= limit + 1).all(axis=1)),
        Doubt.CORNERS: begins & ((extent > corner) & (extent <= limit + 1)).all(axis=1),
        Doubt.UNIT: ((boxes >= 0) & (boxes <= 1)).all(axis=1) & (limit > 1).any(axis=1),
    }
    flags = np.zeros(len(boxes), np.uint8)
    for doubt, found in doubts.items():
        flags[found] |= np.uint8(doubt)
    return flags, inside[:, ::-1]


def _repeated(
    position: NDArray[np.intp], labels: NDArray[np.int64], boxes: NDArray[np.float64], objects: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Rows of objects that equal an earlier one; sorted by a hash, as sorting whole rows takes ten times as long."""

    def numbers(rows: NDArray[np.intp]) -> NDArray[np.uint64]:
        """All that makes an object, as (N, 5) integers."""
        box = (boxes[rows] + 0.0).view(np.uint64)  # -0.0 is 0.0
        return np.column_stack([(position[rows] << 32 | labels[rows]).view(np.uint64), box])

    hashed = np.empty(len(objects), np.uint64)
    for start in range(0, len(objects), _BLOCK):
        mixed = np.bitwise_xor.reduce(numbers(objects[start : start + _BLOCK]) * _MIX, axis=1)
        hashed[start : start + _BLOCK] = mixed ^ (mixed >> np.uint64(29))
    order = np.argsort(hashed, kind="stable")
    candidates = np.flatnonzero(hashed[order[:-1]] == hashed[order[1:]])
    before, after = objects[order[candidates]], objects[order[candidates + 1]]
    return after[(numbers(before) == numbers(after)).all(axis=1)]
