"""Pooling of whole maps, rows and columns for gates, at full speed in both memory formats."""

from torch import Tensor

from attention.functional.pools import mean, pooled


def global_mean(x: Tensor) -> Tensor:
    """Mean over all positions, (B, C, H, W) -> (B, C, 1, 1)."""
    return mean(x, (2, 3))


def global_max(x: Tensor) -> Tensor:
    """Maximum over all positions, (B, C, H, W) -> (B, C, 1, 1)."""
    return pooled(x, maxima=[(2, 3)])[1][0]


def row_means(x: Tensor) -> Tensor:
    """Mean of every row, (B, C, H, W) -> (B, C, H)."""
    return mean(x, (3,)).squeeze(3)


def column_means(x: Tensor) -> Tensor:
    """Mean of every column, (B, C, H, W) -> (B, C, W)."""
    return mean(x, (2,)).squeeze(2)
