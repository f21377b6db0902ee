"""Neighbourhood sums whose weights are multiplied by a static kernel per channel."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attention.functional.neighbourhood.shifts import cell_views, shifted
from attention.functional.plain import differentiable, is_plain

_ROWS = 4  # of queries handled together, so that the temporaries of a row stay in the cache


def modulated_sum(weights: Tensor, values: Tensor, kernels: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """Sum over the k x k cells t around every query p of weights[p, t] * kernels[c, t] * values[n(p, t), c].

    With `n` as in `attention.functional.neighbourhood`. The weights become different for every channel, so that no
    matrix product can be made of this; cell after cell is added instead, without a tensor of size C k^2 H W.

    Args:
        weights: Weight of every cell of every query, (B, H', W', heads, k k) with H' = ceil(H / stride), k odd.
        values: Values (B, H, W, heads, c).
        kernels: Static factor of every cell and channel, (heads, c, k k).
        stride: Distance between queries in cells of the map, at least 1.
        dilation: Distance between the cells of a neighbourhood, at least 1.

    Returns:
        Sums (B, H', W', heads, c).
    """
    weights, kernels = weights.to(values.dtype), kernels.to(values.dtype)
    if is_plain():
        return _plain(weights, values, kernels, stride, dilation)
    total: Tensor = _ModulatedSum.apply(weights, values, kernels, stride, dilation)
    return total


def _plain(weights: Tensor, values: Tensor, kernels: Tensor, stride: int, dilation: int) -> Tensor:
    cells = _cells(weights, values, stride, dilation)
    out = torch.zeros_like(weights[..., :1] * cells[0])
    for index, cell in enumerate(cells):
        out = out + weights[..., index : index + 1] * kernels[..., index] * cell
    return out


def _cells(weights: Tensor, values: Tensor, stride: int, dilation: int) -> list[Tensor]:
    """For each cell in row-major order the values that the queries see there, views (B, H', W', heads, c)."""
    _, rows, columns, _, cells = weights.shape
    return shifted(values, rows, columns, round(cells**0.5), stride, dilation)


class _ModulatedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, kernels: Tensor, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(weights, values, kernels)
        ctx.stride, ctx.dilation = stride, dilation
        precision = torch.promote_types(values.dtype, torch.float32)  # of sums over many cells
        out = values.new_empty(*weights.shape[:4], values.shape[4])
        cells = _cells(weights, values, stride, dilation)
        for first in range(0, out.shape[1], _ROWS):
            rows = slice(first, first + _ROWS)
            total = torch.zeros_like(out[:, rows], dtype=precision)
            for index, cell in enumerate(cells):
                total.addcmul_(weights[:, rows, :, :, index : index + 1] * kernels[..., index], cell[:, rows])
            out[:, rows] = total
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, values, kernels = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            expression = partial(_plain, stride=ctx.stride, dilation=ctx.dilation)
            return *differentiable(expression, ctx.saved_tensors, ctx.needs_input_grad[:3], gradient), None, None
        precision = torch.promote_types(values.dtype, torch.float32)  # of sums over many rows
        cells = _cells(weights, values, ctx.stride, ctx.dilation)
        kernel_size = round(len(cells) ** 0.5)
        reach = ctx.dilation * (kernel_size // 2)
        padded = F.pad(torch.zeros_like(values), (0, 0, 0, 0, reach, reach, reach, reach))
        _, rows_of_queries, columns_of_queries, _, _ = weights.shape
        of_cells = cell_views(padded, rows_of_queries, columns_of_queries, kernel_size, ctx.stride, ctx.dilation)
        of_weights, of_kernels = torch.empty_like(weights), torch.zeros_like(kernels, dtype=precision)
        for first in range(0, weights.shape[1], _ROWS):
            rows = slice(first, first + _ROWS)
            for index in range(len(cells)):
                weight = weights[:, rows, :, :, index : index + 1]
                product = gradient[:, rows] * cells[index][:, rows]
                of_kernels[..., index] += (product * weight).sum((0, 1, 2), dtype=precision)
                of_weights[:, rows, :, :, index] = (product * kernels[..., index]).sum(-1)
                of_cells[index][:, rows].addcmul_(gradient[:, rows] * weight, kernels[..., index])
        height, width = values.shape[1:3]
        of_values = padded[:, reach : reach + height, reach : reach + width]
        return of_weights, of_values, of_kernels.to(kernels.dtype), None, None
