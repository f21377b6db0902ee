"""Neighbourhood sums and products in standard operators: one shifted copy of the map per cell.

Slow and obvious; it serves export, where custom operators are unknown, and tests.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from attention.functional.layout import every_nth


def weighted_sum(weights: Tensor, values: Tensor, stride: int, dilation: int) -> Tensor:
    """`neighbourhood_sum` of weights (B, H', W', heads, k k) and values (B, H, W, heads, c)."""
    kernel_size = round(weights.shape[-1] ** 0.5)
    cells = shifted(values, weights.shape[1], weights.shape[2], kernel_size, stride, dilation)
    total = weights[..., :1] * cells[0]
    for index in range(1, len(cells)):
        total = total + weights[..., index : index + 1] * cells[index]
    return total


def inner_products(queries: Tensor, keys: Tensor, kernel_size: int, stride: int, dilation: int) -> Tensor:
    """`neighbourhood_products` of queries (B, H', W', heads, c) and keys (B, H, W, heads, c)."""
    cells = shifted(keys, queries.shape[1], queries.shape[2], kernel_size, stride, dilation)
    return torch.stack([(queries * cell).sum(-1) for cell in cells], -1)


def shifted(values: Tensor, rows: int, columns: int, kernel_size: int, stride: int, dilation: int) -> list[Tensor]:
    """For each of the k k cells in row-major order the values that `rows` x `columns` queries see there, as views.

    Args:
        values: Values (B, H, W, heads, c).
        rows: Rows of queries H'.
        columns: Columns of queries W'.
        kernel_size: Side k of the neighbourhood, odd.
        stride: Distance between queries in cells of the map.
        dilation: Distance between the cells of a neighbourhood.

    Returns:
        k k views (B, H', W', heads, c) of the padded values.
    """
    if stride > 1 and torch.compiler.is_exporting():
        height, width = values.shape[1:3]
        cells = shifted(values, height, width, kernel_size, 1, dilation)
        maps = [every_nth(cell.flatten(3).permute(0, 3, 1, 2), stride) for cell in cells]
        return [cell.permute(0, 2, 3, 1).unflatten(3, values.shape[3:]) for cell in maps]
    reach = dilation * (kernel_size // 2)
    padded = F.pad(values, (0, 0, 0, 0, reach, reach, reach, reach))
    return cell_views(padded, rows, columns, kernel_size, stride, dilation)


def cell_views(padded: Tensor, rows: int, columns: int, kernel_size: int, stride: int, dilation: int) -> list[Tensor]:
    """The views that `shifted` returns, of values that are padded already."""
    return [
        padded[:, row : row + rows * stride : stride, column : column + columns * stride : stride][:, :rows, :columns]
        for row in range(0, dilation * kernel_size, dilation)
        for column in range(0, dilation * kernel_size, dilation)
    ]
