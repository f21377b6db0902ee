"""Parameters of LaViT that are tied to the number of tokens, for another number of them."""

from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F


def resized_positions(value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """A position embedding (1, C, rows, columns) interpolated bicubically; None if the channels differ."""
    if value.dim() != 4 or len(shape) != 4 or value.shape[:2] != shape[:2]:
        return None
    return F.interpolate(value.float(), shape[2:], mode="bicubic", align_corners=False).to(value.dtype)


def resized_transform(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """A parameter of Theta or Psi for windows of another side; None if it is not one of them or of another rank.

    The deviation from the identity is a function of an output cell and an input cell. It is interpolated bicubically
    over the two output axes and over the two input axes, and multiplied by N_old / N_new, so that its row sums stay:
    what it adds to a constant vector. Of the factors U V^T each has one of the pairs of axes; V takes the multiplier.
    """
    kind = name.rpartition(".")[2]
    if value.dim() != len(shape) or isqrt(shape[0]) ** 2 != shape[0] or isqrt(value.shape[0]) ** 2 != value.shape[0]:
        return None
    multiplier = value.shape[0] / shape[0]
    precise = value.float()
    if kind == "weight" and value.shape[0] == value.shape[1] and shape[0] == shape[1]:
        resized = _over_cells(_over_cells(precise, shape[0]).T, shape[0]).T * multiplier
    elif kind in ("up", "down") and value.shape[1] == shape[1]:
        resized = _over_cells(precise, shape[0]) * (multiplier if kind == "down" else 1.0)
    elif kind == "bias":
        resized = _over_cells(precise.unsqueeze(1), shape[0]).squeeze(1)
    else:
        return None
    return resized.to(value.dtype).contiguous()


def _over_cells(values: Tensor, count: int) -> Tensor:
    """Values (N, K) of the cells of a square window, interpolated to a window of `count` cells."""
    old, new = isqrt(values.shape[0]), isqrt(count)
    grid = values.T.reshape(1, -1, old, old)
    resized = F.interpolate(grid, (new, new), mode="bicubic", align_corners=False)
    return torch.flatten(resized[0], 1).T
