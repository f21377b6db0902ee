"""From the small map of each box to run-length masks of the whole image: pasting, threshold and encoding.

A box has a map of M x M probabilities (28 x 28, say). The mask of its object is where the map, interpolated bilinearly
over the box, reaches 0.5. Interpolation is a product of three matrices, of which those at the sides hold two weights in
a row; it is done for the pixels of the box only, and many boxes are encoded together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes

from tasks.detectors.two_stage.convention import ConventionName
from tasks.metrics.rle import RLE, encode_changes, without_empty_runs

PIXELS_AT_ONCE = 1 << 23
"""Pixels of boxes that are encoded together, at two bytes each; a box with more is encoded alone."""


def encode_masks(
    probabilities: Tensor, boxes: Tensor, size: tuple[int, int], convention: ConventionName = "mmdetection"
) -> list[RLE]:
    """Pastes the maps of boxes into their image and encodes what reaches 0.5.

    Maps and boxes are copied to the host in one piece; nothing else waits for a device. There the boxes of a group take
    2 x `PIXELS_AT_ONCE` bytes, one box at a time 4 bytes for each of its pixels in the image, and all boxes 4 M bytes
    for each of their columns and rows.

    - MMDetection (`FCNMaskHead`): the map covers the box and is taken at the centres of pixels; 0.5 belongs to the
      mask. A box without width or height has an empty one.
    - torchvision (`paste_masks_in_image`): the map gets a frame of zeros, one cell wide, and covers a box that is
      larger by as much, with corners rounded towards 0; 0.5 does not belong to the mask.

    Args:
        probabilities: (N, M, M) in 0..1, on any device and in any precision.
        boxes: (N, 4) xyxy in pixels of the original image, on the same device.
        size: Height and width of the original image.
        convention: Whose rules place the map and round the box.

    Returns:
        N compressed RLEs of the size of the image, as pycocotools writes them. The metrics take them unchecked.

    Raises:
        ValueError: The convention is unknown, or the shapes do not fit together.
    """
    if convention not in ("mmdetection", "torchvision"):
        raise ValueError(f"convention must be 'mmdetection' or 'torchvision', got {convention!r}")
    count, cells = len(probabilities), probabilities.shape[-1]
    if probabilities.shape != (count, cells, cells) or boxes.shape != (count, 4):
        shapes = f"{tuple(probabilities.shape)} and {tuple(boxes.shape)}"
        raise ValueError(f"maps and boxes must have the shapes (N, M, M) and (N, 4), got {shapes}")
    if not count:
        return []
    together = torch.cat([boxes.detach().float(), probabilities.detach().float().flatten(1)], dim=1).cpu()
    corners, maps = (
        together[:, :4].nan_to_num(0, 0, 0),
        together[:, 4:].reshape(-1, cells, cells),
    )  # nan: the metric refuses
    cover: Callable[..., _Side]
    reaches: np.ufunc
    if convention == "mmdetection":
        spans, cover, reaches = corners, _cover_box, np.greater_equal
    else:
        spans, cover, reaches = expand_boxes(corners, (cells + 2) / cells).long(), _cover_framed_box, np.greater
    left, top, right, bottom = spans.numpy().T
    columns, rows = cover(left, right, size[1], cells), cover(top, bottom, size[0], cells)
    breaks = np.flatnonzero(np.diff(np.cumsum(columns.counts * rows.counts) // PIXELS_AT_ONCE)) + 1
    groups = np.split(np.arange(count), breaks)
    parts = [_changes(maps.numpy(), columns, rows, group, size[0], reaches) for group in groups]
    place, owner = (np.concatenate(part) for part in zip(*parts, strict=True))
    place, owner = without_empty_runs(place, owner, size[0] * size[1])
    return cast(list[RLE], encode_changes(place, np.bincount(owner, minlength=count), size))


@dataclass(frozen=True)
class _Side:
    """The columns, or the rows, of an image that N boxes cover.

    Attributes:
        first: (N,) first one of each box.
        counts: (N,) their number.
        weights: For each box (count, M): the share of each cell of its map in each of them.
    """

    first: NDArray[np.int64]
    counts: NDArray[np.int64]
    weights: list[NDArray[np.float32]]


def _cover_box(start: NDArray[np.float32], stop: NDArray[np.float32], pixels: int, cells: int) -> _Side:
    """A map over each span, at the centres of pixels, in the steps of MMDetection and `grid_sample`."""
    half = np.float32(0.5)
    first, last = np.clip(np.ceil(start - half), 0, pixels), np.clip(np.floor(stop - half) + 1, 0, pixels)
    counts = np.where(stop > start, last - first, 0).clip(0).astype(np.int64)
    owner, pixel = _count_up(first, counts)
    relative = (pixel + half - start[owner]) / (stop - start)[owner] * 2 - 1
    return _side(first, counts, ((relative + 1) * cells - 1) / 2, np.arange(cells))


def _cover_framed_box(start: NDArray[np.int64], stop: NDArray[np.int64], pixels: int, cells: int) -> _Side:
    """A map with a frame over each span of whole pixels, both ends included, as `interpolate` resizes it."""
    first, last = start.clip(0, pixels), (stop + 1).clip(0, pixels)
    counts = (last - first).clip(0)
    owner, pixel = _count_up(first, counts)
    scale = np.float32(cells + 2) / np.maximum(stop - start + 1, 1).astype(np.float32)
    source = scale[owner] * ((pixel - start[owner]).astype(np.float32) + np.float32(0.5)) - np.float32(0.5)
    return _side(first, counts, source, np.arange(1, cells + 1))


def _count_up(first: NDArray[Any], counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The owner and the number of each pixel of N spans, end to end."""
    owner = np.repeat(np.arange(len(counts)), counts)
    pixel = np.arange(len(owner)) - (np.cumsum(counts) - counts - first)[owner]
    return owner, pixel.astype(np.float32)


def _side(first: NDArray[Any], counts: NDArray[np.int64], source: NDArray[Any], cells: NDArray[np.int64]) -> _Side:
    """The share of a cell falls linearly with the distance of its centre from where a pixel lies in the map."""
    weights = source.astype(np.float32)[:, None] - cells.astype(np.float32)
    np.subtract(1, np.abs(weights, out=weights), out=weights)
    np.maximum(weights, 0, out=weights)
    return _Side(first.astype(np.int64), counts, np.split(weights, np.cumsum(counts)[:-1]))


def _changes(
    maps: NDArray[np.float32], columns: _Side, rows: _Side, boxes: NDArray[np.int64], height: int, reaches: np.ufunc
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places in the image, counted down its columns, where the masks of some boxes change, and their owners."""
    sides = rows.counts[boxes] + 1  # a column of a box has a background pixel behind it
    ends = 1 + np.cumsum(columns.counts[boxes] * sides)
    inside = np.zeros(ends[-1], np.bool_)
    for box, side, start, end in zip(
        boxes.tolist(), sides.tolist(), [1, *ends[:-1].tolist()], ends.tolist(), strict=True
    ):
        values = columns.weights[box] @ maps[box].T @ rows.weights[box].T  # (w, h)
        reaches(values, np.float32(0.5), out=inside[start:end].reshape(-1, side)[:, :-1])
    change = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    which = np.searchsorted(ends, change, side="right")
    column, row = np.divmod(change - np.append(1, ends[:-1])[which], sides[which])
    owner = boxes[which]
    return (columns.first[owner] + column) * height + rows.first[owner] + row, owner
