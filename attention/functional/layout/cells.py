"""Subsampling of maps by cells of stride x stride positions, in forms that export for every height and width."""

import torch
from torch import Tensor
from torch.nn import functional as F


def cell_means(x: Tensor, stride: int) -> Tensor:
    """Mean of every cell of stride x stride positions; the last cells of a map cover what is left of them.

    Args:
        x: A map (B, C, H, W).
        stride: Side of a cell, at least 1.

    Returns:
        Means (B, C, ceil(H / stride), ceil(W / stride)).
    """
    if stride == 1:
        return x
    if not torch.compiler.is_exporting():
        # There is no padding to count, but when told to, inductor divides the gradients of the last cells wrongly.
        return F.avg_pool2d(x, stride, ceil_mode=True, count_include_pad=False)
    # Exporters cannot prove the size that ceil_mode gives; of (H - 1) // stride + 1 they know the least value.
    padding = (0, stride - 1, 0, stride - 1)
    share = F.avg_pool2d(F.pad(torch.ones_like(x[:1, :1]), padding), stride)  # of a cell that lies on the map
    return F.avg_pool2d(F.pad(x, padding), stride) / share


def every_nth(x: Tensor, stride: int) -> Tensor:
    """Every stride-th position of a map (B, C, H, W), with the size that exporters know of strided convolutions."""
    return x if stride == 1 else F.max_pool2d(x, 1, stride)
