"""From logits to labels or probabilities at the size of the original image, without the logits at that size."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

BAND = {"cpu": 2**19, "cuda": 2**26}
"""Resized logits in memory at a time: on a CPU what stays in the cache, on a GPU enough to hide the launches."""


def argmax_at(logits: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Labels of bilinearly resized logits: `F.interpolate(logits, size, None, "bilinear", align_corners)[0].argmax(0)`.

    Equal to the plain form up to the rounding of float32: a label can differ where two classes are that close. The
    plain form writes all logits at the new size (150 classes at 512x683: 210 MB) and reads them again, one plane per
    class. Here they exist for a band of rows at a time, with the classes innermost.

    Args:
        logits: (1, K, h, w); fastest in `torch.channels_last`. Half precision is resized in float32.
        size: Height H and width W of the labels.
        align_corners: As in `F.interpolate`.

    Returns:
        (H, W) int64; of equal logits the first class wins.
    """
    height, width = logits.shape[-2:]
    bands = resized_bands([logits], (height, width), size, align_corners)
    return torch.cat([first_of_largest(band) for band in bands])


def resized_bands(
    rows: Iterable[Tensor], source: tuple[int, int], size: tuple[int, int], align_corners: bool = False
) -> Iterator[Tensor]:
    """Resizes a map bilinearly that comes and goes in bands, so that it never exists as a whole.

    Args:
        rows: (1, K, n, w), from the top of the map to its end, n rows at a time.
        source: Height h and width w of the map.
        size: Height H and width W that it is resized to.
        align_corners: As in `F.interpolate`.

    Yields:
        (N, W, K), from the top of the resized map to its end, N rows at a time, in float32 or better.
    """
    if source == size:
        for part in rows:
            yield part[0].to(torch.promote_types(part.dtype, torch.float32)).movedim(0, -1)
        return
    up, down, vertical = _neighbours(source[0], size[0], align_corners)
    left, right, horizontal = _neighbours(source[1], size[1], align_corners)
    first, done, kept = 0, 0, None
    for part in rows:
        kept = part if kept is None else torch.cat([kept, part], dim=2)
        ready = int(torch.searchsorted(down, first + kept.shape[2] - 1, right=True))
        across = [edge.to(part.device) for edge in (left, right, horizontal[:, None])]
        step = max(BAND.get(part.device.type, BAND["cuda"]) // (part.shape[1] * size[1]), 1)
        for start in range(done, ready, step):
            here = slice(start, min(start + step, ready))
            top, bottom = int(up[here.start]), int(down[here.stop - 1])
            band = kept[0, :, top - first : bottom - first + 1]
            band = band.to(torch.promote_types(part.dtype, torch.float32)).movedim(0, -1)  # (rows, w, K)
            along = [edge.to(part.device) for edge in (up[here] - top, down[here] - top, vertical[here, None, None])]
            yield _blend(_blend(band.contiguous(), 0, *along), 1, *across)
        done = ready
        if done < size[0]:
            drop = int(up[done]) - first
            kept, first = kept[:, :, drop:], first + drop


def _blend(values: Tensor, axis: int, before: Tensor, after: Tensor, share: Tensor) -> Tensor:
    return values.index_select(axis, before).lerp_(values.index_select(axis, after), share.to(values.dtype))


def first_of_largest(values: Tensor) -> Tensor:
    """The class of every pixel of logits or probabilities (..., K).

    Equal to `values.argmax(-1)`, of which max is a faster form on a CPU; both take the first of equal values.
    """
    return values.max(dim=-1).indices


def _neighbours(length: int, resized: int, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the two samples around each resized sample, and the share of the second.

    In float32 like PyTorch's own kernels, for the same rounding.
    """
    places = torch.arange(resized, dtype=torch.float32)
    if align_corners:  # the centres of the outermost pixels stay where they are
        position = places * (torch.tensor(length - 1, dtype=torch.float32) / max(resized - 1, 1))
    else:  # the borders do
        position = (places + 0.5) * (torch.tensor(length, dtype=torch.float32) / resized) - 0.5
    position = position.clamp(min=0)
    before = position.long().clamp(max=length - 1)
    return before, (before + 1).clamp(max=length - 1), position - before
