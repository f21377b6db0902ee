"""Masks of objects: from COCO's polygons and run-length codes into the frame of an augmented image.

No mask is ever warped at the size of the image. The corners of a polygon are moved, and it is filled by COCO's own code
(pycocotools) in the pixels of the output: exactly its picture there, whatever the scale. A run-length code is decoded
once, and the part that it covers takes the nearest pixels. Of both only the rectangle that the object covers is made.
"""

from collections.abc import Iterable, Sequence
from math import ceil, floor
from typing import Any, NamedTuple, TypedDict

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from datamodules.resampling import Size, Window

FEWEST_NUMBERS = 6
"""x and y of the three corners that a polygon needs. Shorter ones, and those of an odd number, cover nothing: they are
left out, as by Detectron2 and MMDetection."""

_GRID = 5
"""pycocotools rounds corners to a fifth of a pixel."""

_REACH = 16
"""Corners further outside than so many images are moved to there: they would cost memory."""


class RLE(TypedDict):
    """COCO's compressed run-length code: `size` [height, width] in pixels, `counts` the coded runs."""

    size: list[int]
    counts: bytes


class Patch(NamedTuple):
    """The rectangle of a frame that holds all of an object.

    Attributes:
        top: First row of the rectangle.
        left: First column.
        pixels: (h, w) uint8, 1 inside the object, 0 elsewhere; may be empty.
    """

    top: int
    left: int
    pixels: NDArray[np.uint8]


def encode_mask(segmentation: Any, size: Size) -> RLE:
    """The mask of an annotation as pycocotools evaluates it.

    Args:
        segmentation: Polygons or a run-length code as in the file, which `is_usable`.
        size: Height and width of the image.
    """
    if isinstance(segmentation, list):
        return _filled(_usable(segmentation, size), size)
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *size)
    return {"size": list(size), "counts": segmentation["counts"].encode()}


def draw_masks(
    segmentations: Iterable[Any], size: Size, window: Window, part: tuple[slice, slice] | None = None
) -> list[Patch]:
    """Draws the masks of annotations in the frame of an augmented image.

    Args:
        segmentations: Polygons or run-length codes as in the file, which are `is_usable`.
        size: Height and width of the image.
        window: How the image is augmented.
        part: Rows and columns of the image that are seen at all. Default: all of them.
    """
    rows, columns = window.nearest()
    part = part or (slice(0, size[0]), slice(0, size[1]))
    seen = [_inside(near, side.start, side.stop - side.start) for near, side in zip((rows, columns), part, strict=True)]

    def draw(segmentation: Any) -> Patch:
        if isinstance(segmentation, list):
            return _cut(_fill([window.move(corners) for corners in _usable(segmentation, size)], window.size), *seen)
        return _cut(_resample(encode_mask(segmentation, size), rows, columns), *seen)

    return [draw(segmentation) for segmentation in segmentations]


def stack_masks(patches: Sequence[Patch], size: Size) -> NDArray[np.uint8]:
    """Lays N patches into frames of a height and width -> (N, H, W)."""
    masks = np.zeros((len(patches), *size), np.uint8)
    for mask, (top, left, pixels) in zip(masks, patches, strict=True):
        mask[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return masks


def _usable(polygons: list[list[float]], size: Size) -> list[NDArray[np.float64]]:
    """The corners (V, 2) xy of the polygons that cover something."""
    limits = np.multiply(_REACH, size[::-1])
    corners = (np.array(polygon, np.float64).reshape(-1, 2) for polygon in polygons if _covers(polygon))
    return [np.clip(of_one, -limits, limits) for of_one in corners]


def _covers(polygon: list[float]) -> bool:
    return len(polygon) >= FEWEST_NUMBERS and len(polygon) % 2 == 0


def _fill(polygons: list[NDArray[np.float64]], size: Size) -> Patch:
    """Fills polygons, corners in pixels of the frame, to the same pixels as pycocotools does in the whole frame.

    It rounds corners to a grid before it follows the edges. A patch begins at a whole pixel, but the difference of two
    floats may round to another grid point; so the corners are rounded first.
    """
    corners = np.concatenate(polygons)
    left, top = (max(0, floor(least)) for least in corners.min(axis=0).tolist())
    right, bottom = (ceil(most) + 1 for most in corners.max(axis=0).tolist())
    height, width = min(bottom, size[0]) - top, min(right, size[1]) - left
    if height < 1 or width < 1:
        return Patch(0, 0, np.zeros((0, 0), np.uint8))
    offset = np.array([left, top])
    moved = [
        np.where(offset > 0, (np.floor(_GRID * of_one + 0.5) - _GRID * offset) / _GRID, of_one) for of_one in polygons
    ]
    columns = coco_mask.decode(_filled(moved, (height, width))).T
    return Patch(top, left, np.asarray(cv2.transpose(columns)))  # rows are laid into the frame faster than columns


def _filled(polygons: list[NDArray[np.float64]], size: Size) -> RLE:
    """The union of polygons."""
    return coco_mask.merge(coco_mask.frPyObjects([of_one.ravel() for of_one in polygons], *size))


def _resample(code: RLE, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Patch:
    """Takes the nearest pixels of a mask, where it is."""
    left, top, width, height = coco_mask.toBbox(code).astype(int).tolist()
    down, across = _inside(rows, top, height), _inside(columns, left, width)
    mask = coco_mask.decode(code)[top : top + height, left : left + width]
    return Patch(down.start, across.start, mask[np.ix_(rows[down] - top, columns[across] - left)])


def _inside(nearest: NDArray[np.intp], start: int, length: int) -> slice:
    """The pixels of an axis of the output whose nearest ones are `length` of the image from `start` on."""
    (inside,) = np.nonzero((nearest >= start) & (nearest < start + length))
    return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)


def _cut(patch: Patch, rows: slice, columns: slice) -> Patch:
    """What of a patch lies in some rows and columns of the frame: a mask may leave the part that is seen."""
    top, left = max(patch.top, rows.start), max(patch.left, columns.start)
    below, behind = max(rows.stop - patch.top, 0), max(columns.stop - patch.left, 0)
    return Patch(top, left, patch.pixels[top - patch.top : below, left - patch.left : behind])


class _Code(msgspec.Struct, gc=False):
    size: tuple[int, int]
    counts: list[int] | str


_DECODER = msgspec.json.Decoder(list[list[float]] | _Code)


def is_usable(text: bytes | memoryview, size: Size) -> bool:
    """Whether the json text of a segmentation is that of a mask of an image of a height and width.

    That is: polygons, at least one of three corners or more; or a run-length code of the image's size with as many
    pixels, of which `pycocotools` would otherwise read or write outside its memory.
    """
    try:
        segmentation = _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    if isinstance(segmentation, list):
        return any(map(_covers, segmentation))
    counts = segmentation.counts
    runs = _run_lengths(counts) if isinstance(counts, str) else np.array(counts, np.float64)
    return segmentation.size == size and bool((runs >= 0).all()) and runs.sum() == size[0] * size[1]


def _run_lengths(counts: str) -> NDArray[np.float64]:
    """The runs of a compressed code; negative ones where it is none.

    A run is written in groups of 5 bits, lowest first, each as character 48 + group, + 32 if more groups follow; bit 16
    of the last group is the sign. From the fourth run on, the difference to the last but one is written.
    """
    groups = np.frombuffer(counts.encode(), np.uint8) - 48.0
    if len(groups) == 0 or groups.min() < 0 or groups.max() > 63 or groups[-1] > 31:
        return np.array([-1.0])
    last = np.flatnonzero(groups < 32)
    first = np.concatenate([[0], last[:-1] + 1])
    places = np.arange(len(groups)) - np.repeat(first, last - first + 1)
    if places.max() > 6:  # more than 35 bits
        return np.array([-1.0])
    runs = np.add.reduceat(groups % 32 * 32.0**places, first)
    runs -= np.where(groups[last] >= 16, 32.0 ** (places[last] + 1), 0)
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return runs
