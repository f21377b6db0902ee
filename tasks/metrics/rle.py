"""Compressed run-length masks, many at a time: writing them, and checking those that others have written.

The code (of cocoapi): the runs of a mask, column by column, background first. A run is written in groups of 5 bits,
lowest first, each as character 48 + group, + 32 if more groups follow; bit 16 of the last group is the sign. From the
fourth run on, the difference to the last but one is written. Masks are coded together, because a loop over characters
would be slower than the evaluation.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray


class RLE(TypedDict):
    """COCO's compressed run-length encoding: ``size`` = (height, width) in pixels, ``counts`` the coded runs."""

    size: Sequence[int]
    counts: bytes | str


class EncodedMask(dict[str, Any]):
    """An ``RLE`` of our own making: nobody has to check it, and its area is known.

    Attributes:
        area: Pixels in the mask.

    Args:
        rle: Its size and counts.
        area: Pixels in the mask; None counts them. Lightning builds mappings anew, from their content alone, when it
            moves what a step has returned.

    Raises:
        ValueError: Counted, the runs do not add up to the size.
    """

    __slots__ = ("area",)
    area: int

    def __init__(self, rle: Mapping[str, Any], area: int | None = None) -> None:
        super().__init__(rle)
        if area is None:
            height, width = rle["size"]
            areas = mask_areas([rle["counts"]], height * width)
            if areas is None:
                raise ValueError(f"the runs of a mask do not add up to height x width = {height} x {width} pixels")
            area = int(areas[0])
        self.area = area


def encode_changes(changes: NDArray[np.int64], per_mask: NDArray[np.int64], size: Sequence[int]) -> list[EncodedMask]:
    """Encodes masks that are given by the pixels where they change.

    Args:
        changes: (C,) places of all masks end to end, increasing within each: a pixel that is unlike the one before it,
            counted down the columns; the pixel before the first is background.
        per_mask: (N,) changes of each mask.
        size: Height and width of all masks.
    """
    pixels = size[0] * size[1]
    owner = np.repeat(np.arange(len(per_mask)), per_mask)
    first = np.concatenate([[0], np.cumsum(per_mask + 1)[:-1]])  # a mask of k changes has k + 1 runs
    stops = np.full(len(changes) + len(per_mask), pixels)
    stops[np.arange(len(changes)) + owner] = changes
    runs = np.diff(stops, prepend=0)
    runs[first] = stops[first]
    place = np.arange(len(runs)) - np.repeat(first, per_mask + 1)
    areas = np.add.reduceat(np.where(place & 1, runs, 0), first)

    written = runs.copy()
    late = np.flatnonzero(place > 2)
    written[late] -= runs[late - 2]
    magnitude = np.where(written < 0, ~written, written)
    groups = 1 + np.searchsorted([16 << 5 * more for more in range(12)], magnitude, side="right")
    starts = np.cumsum(groups) - groups
    text = np.empty(int(groups.sum()), np.uint8)
    left = np.arange(len(written))
    for position in range(int(groups.max())):
        left = left[groups[left] > position]
        follows = groups[left] > position + 1
        text[starts[left] + position] = (written[left] >> 5 * position & 31) + 48 + 32 * follows
    whole, bounds = text.tobytes(), [*starts[first].tolist(), len(text)]
    shared = list(size)
    coded = [whole[start:stop] for start, stop in pairwise(bounds)]
    return [
        EncodedMask({"size": shared, "counts": counts}, area)
        for counts, area in zip(coded, areas.tolist(), strict=True)
    ]


def without_empty_runs(
    place: NDArray[np.int64], owner: NDArray[np.int64], pixels: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where a mask fills the end of a column and the begin of the next it does not change, nor at the image's end."""
    kept = place < pixels
    goes_on = (place[1:] == place[:-1]) & (owner[1:] == owner[:-1])
    kept[1:] &= ~goes_on
    kept[:-1] &= ~goes_on
    return place[kept], owner[kept]


def mask_areas(coded: Sequence[bytes], pixels: int | NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Areas of compressed RLEs, or None unless each decodes to non-negative runs with the sum `pixels`.

    Args:
        coded: N strings.
        pixels: Height x width, of all masks or (N,) of each.

    Returns:
        (N,) pixels in the mask.
    """
    if not coded:
        return np.zeros(0, np.int64)
    lengths = np.fromiter(map(len, coded), np.int64, len(coded))
    stops = np.cumsum(lengths)
    groups = np.frombuffer(b"".join(coded), np.uint8) - np.uint8(48)
    if lengths.min() == 0 or groups.max() > 63 or (groups[stops - 1] > 31).any():
        return None
    last = np.flatnonzero(groups < 32)  # position of the last group of each run
    width = np.empty_like(last)  # groups per run
    width[0] = last[0] + 1
    np.subtract(last[1:], last[:-1], out=width[1:])
    widest = int(width.max())
    if widest > 7:  # more than 35 bits
        return None
    ends = np.searchsorted(last, stops)  # runs up to and including each mask
    first = np.concatenate([[0], ends[:-1]])
    # 32 bits are twice as fast. They suffice if every written number has 25 bits and no sum over a mask has 32: a run
    # in 0..pixels plus 25 bits cannot wrap around, and runs outside of that are refused below.
    most = int(np.max(pixels))
    narrow = widest <= 5 and int((ends - first).max()) * most < 2**31
    dtype: type[np.signedinteger[Any]] = np.int32 if narrow and most < 2**30 else np.int64
    written = (groups[last] ^ 16).astype(dtype) - dtype(16)
    longer = np.flatnonzero(width > 1)
    for place in range(1, widest):
        written[longer] = (written[longer] << 5) | (groups[last[longer] - place] & 31)
        longer = longer[width[longer] > place + 1]
    runs = _undo_differences(written, first)
    if runs.view(np.uint32 if dtype is np.int32 else np.uint64).max() > most:  # a negative run becomes a large one
        return None

    # Runs 0, 2, 4, ... of a mask are background, and are at odd places of `runs` for a mask that begins at one.
    even = _sums(runs[0::2], np.append(first + 1, len(runs) + 1) >> 1)
    odd = _sums(runs[1::2], np.append(first, len(runs)) >> 1)
    if (even + odd != pixels).any():
        return None
    return np.where(first & 1, even, odd).astype(np.int64)


def _undo_differences(written: NDArray[Any], first: NDArray[np.int64]) -> NDArray[Any]:
    """Runs of masks that begin at ``first``: their run 0 stands alone, 1, 3, 5, ... and 2, 4, 6, ... are to be summed.

    Both chains are summed with a stride of two over all masks at once. The sum before a chain is taken off afterwards:
    for 2, 4, ... it is that up to run 0, for 1, 3, ... that up to the run before run 0.
    """
    runs = np.empty_like(written)
    even, odd = runs[0::2], runs[1::2]
    np.cumsum(written[0::2], dtype=runs.dtype, out=even)
    np.cumsum(written[1::2], dtype=runs.dtype, out=odd)
    start, before = runs[first], runs[first - 1]
    before[0] = 0
    at_odd = first & 1 == 1
    even -= np.repeat(np.where(at_odd, before, start), np.diff(np.append(first + 1, len(runs) + 1) >> 1))
    odd -= np.repeat(np.where(at_odd, start, before), np.diff(np.append(first, len(runs)) >> 1))
    runs[first] = written[first]
    return runs


def _sums(values: NDArray[Any], bounds: NDArray[np.int64]) -> NDArray[Any]:
    """Sums of ``values[bounds[i] : bounds[i + 1]]``, any of which may be empty."""
    total = np.zeros(len(values) + 1, values.dtype)
    np.cumsum(values, dtype=values.dtype, out=total[1:])
    return np.diff(total[bounds])
