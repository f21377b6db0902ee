"""From logits to labels at the size of the original image, without the logits at that size."""

import torch
from torch import Tensor

BAND = {"cpu": 2**19, "cuda": 2**26}
"""Resized logits in memory at a time: on a CPU what stays in the cache, on a GPU enough to hide the launches."""


def argmax_at(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels of bilinearly resized logits: `F.interpolate(logits, size, mode="bilinear")[0].argmax(0)`.

    Equal to the plain form up to the rounding of float32: a label can differ where two classes are that close. The
    plain form writes all logits at the new size (150 classes at 512x683: 210 MB) and reads them again, one plane per
    class. Here they exist for a band of rows at a time, with the classes innermost.

    Args:
        logits: (1, K, h, w); fastest in `torch.channels_last`. Half precision is resized in float32.
        size: Height H and width W of the labels.

    Returns:
        (H, W) int64; of equal logits the first class wins.
    """
    num_classes, height, width = logits.shape[-3:]
    if (height, width) == size:
        return _first_of_largest(logits[0].movedim(0, -1))
    up, down, vertical = _neighbours(height, size[0], logits.device)
    left, right, horizontal = _neighbours(width, size[1], logits.device)
    band = max(BAND.get(logits.device.type, BAND["cuda"]) // (num_classes * size[1]), 1)
    starts = range(0, size[0], band)
    tops, bottoms = up[::band].tolist(), down[[min(start + band, size[0]) - 1 for start in starts]].tolist()
    labels = []
    for start, top, bottom in zip(starts, tops, bottoms, strict=True):
        here = slice(start, start + band)
        source = logits[0, :, top : bottom + 1].to(torch.promote_types(logits.dtype, torch.float32))
        source = source.movedim(0, -1).contiguous()  # (rows, w, K)
        rows = _blend(source, 0, up[here] - top, down[here] - top, vertical[here, None, None])
        labels.append(_first_of_largest(_blend(rows, 1, left, right, horizontal[:, None])))
    return torch.cat(labels)


def _blend(values: Tensor, axis: int, before: Tensor, after: Tensor, share: Tensor) -> Tensor:
    return values.index_select(axis, before).lerp_(values.index_select(axis, after), share.to(values.dtype))


def _first_of_largest(values: Tensor) -> Tensor:
    """Equal to `values.argmax(-1)`, of which max is a faster form on a CPU; both take the first of equal values."""
    return values.max(dim=-1).indices


def _neighbours(length: int, resized: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the two samples around each resized sample, and the share of the second.

    In float32 like PyTorch's own kernels, for the same rounding.
    """
    scale = torch.tensor(length, dtype=torch.float32) / resized
    position = (torch.arange(resized, dtype=torch.float32) + 0.5) * scale - 0.5
    position = position.clamp(min=0)
    before = position.long().clamp(max=length - 1)
    after = (before + 1).clamp(max=length - 1)
    return before.to(device), after.to(device), (position - before).to(device)
