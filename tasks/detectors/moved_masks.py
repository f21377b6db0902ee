"""Masks of a window as masks of the image that it was cut from, without ever laying out the image."""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

from tasks.metrics.rle import RLE, EncodedMask, encode_changes, without_empty_runs


def move_masks(masks: Sequence[RLE], corner: Sequence[int], size: tuple[int, int]) -> list[EncodedMask]:
    """Moves run-length masks of a window into its image.

    A mask is decoded in its bounding box, one at a time; its size in memory is that of the box.

    Args:
        masks: Of the size of the window.
        corner: Top and left of the window in the image, in pixels.
        size: Height and width of the image. The window may stand out of it, the masks may not.
    """
    if not masks:
        return []
    places, counts = [], []
    boxes = coco_mask.toBbox([_as_bytes(mask) for mask in masks]).astype(int).tolist()
    for mask, (left, top, width, height) in zip(masks, boxes, strict=True):
        inside = coco_mask.decode(_as_bytes(mask))[top : top + height, left : left + width]
        below = np.pad(inside.T, ((0, 0), (0, 1))).ravel()  # a background pixel behind each column
        changes = np.flatnonzero(np.diff(below, prepend=0))
        column, row = np.divmod(changes, height + 1)
        places.append((corner[1] + left + column) * size[0] + corner[0] + top + row)
        counts.append(len(changes))
    owner = np.repeat(np.arange(len(masks)), counts)
    place, owner = without_empty_runs(np.concatenate(places), owner, size[0] * size[1])
    return encode_changes(place, np.bincount(owner, minlength=len(masks)), size)


def _as_bytes(mask: RLE) -> dict[str, object]:
    counts = mask["counts"]
    return {"size": list(mask["size"]), "counts": counts if isinstance(counts, bytes) else counts.encode()}
