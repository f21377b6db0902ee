"""Sums and inner products over the k x k neighbourhood of every position: the inner loops of sliding local attention.

With `p` a query position (i, j), `t` one of the k x k cells in row-major order and `n(p, t)` the position of that cell,

    neighbourhood_sum(w, v)[p]           = sum_t w[p, t] v[n(p, t)]
    neighbourhood_products(q, v)[p, t]   = <q[p], v[n(p, t)]>
    neighbourhood_scatter(w, q)[m]       = sum over all (p, t) with n(p, t) = m of w[p, t] q[p]

    n((i, j), (a, b)) = (stride i + dilation (a - k // 2), stride j + dilation (b - k // 2))

per image and head; positions outside the map count as zero. Each is linear in both arguments and the gradients of each
are the other two, to any order. Nothing of size C k^2 H W is ever stored.

They are operators of PyTorch (`torch.ops.attndense.*`), so that `torch.compile` takes them as they are, with one kernel
for CPUs (`blocks`) and one for CUDA (`launch`). While a model is exported or under a transform of `torch.func`, and on
any other device, they unfold into standard operators (`shifts`).
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from attention.functional.neighbourhood import blocks, shifts
from attention.functional.plain import in_standard_operators

_DEVICES = ("cpu", "cuda", "meta")  # that the operators have a kernel for, or nothing to compute


def neighbourhood_sum(weights: Tensor, values: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """Weighted sum of the values around every query.

    Args:
        weights: Weight of every cell of every query, (B, H', W', heads, k k) with H' = ceil(H / stride), k odd; rounded
            to the precision of the values.
        values: Values (B, H, W, heads, c).
        stride: Distance between queries in cells of the map, at least 1.
        dilation: Distance between the cells of a neighbourhood, at least 1.

    Returns:
        Sums (B, H', W', heads, c).
    """
    weights = weights.to(values.dtype)
    if _in_standard_operators(values):
        return shifts.weighted_sum(weights, values, stride, dilation)
    total: Tensor = torch.ops.attndense.neighbourhood_sum(weights, values, stride, dilation)
    return total


def neighbourhood_products(
    queries: Tensor, keys: Tensor, kernel_size: int, stride: int = 1, dilation: int = 1
) -> Tensor:
    """Inner product of every query with the keys around it; zero for cells outside the map.

    Args:
        queries: Queries (B, H', W', heads, c) with H' = ceil(H / stride).
        keys: Keys (B, H, W, heads, c).
        kernel_size: Side k of the neighbourhood, odd.
        stride: Distance between queries in cells of the map, at least 1.
        dilation: Distance between the cells of a neighbourhood, at least 1.

    Returns:
        Products (B, H', W', heads, k k).
    """
    if _in_standard_operators(keys):
        return shifts.inner_products(queries, keys, kernel_size, stride, dilation)
    products: Tensor = torch.ops.attndense.neighbourhood_products(queries, keys, kernel_size, stride, dilation)
    return products


def neighbourhood_rows(queries: int, kernel_size: int, stride: int, dilation: int, device: torch.device) -> Tensor:
    """Row (column) of every cell of every row (column) of queries; below zero, or beyond the map, outside.

    Args:
        queries: Number of rows (columns) of queries, ceil(size / stride). It is not computed from the size, because
            exporters must see the number that the maps of these queries have.
        kernel_size: Side k of the neighbourhood, odd.
        stride: Distance between queries in cells of the map, at least 1.
        dilation: Distance between the cells of a neighbourhood, at least 1.
        device: Where the table is made.

    Returns:
        Rows (queries, k).
    """
    centres = stride * torch.arange(queries, device=device)
    cells = dilation * (torch.arange(kernel_size, device=device) - kernel_size // 2)
    return centres.unsqueeze(1) + cells


def inside_map(rows: Tensor, size: int) -> Tensor:
    """Which rows (columns) of a table of `neighbourhood_rows` lie on a map with so many."""
    return (rows >= 0) & (rows < size)


def _in_standard_operators(values: Tensor) -> bool:
    """Whether the operators are unknown where the values go: to another runtime, or to a device without a kernel."""
    return in_standard_operators() or values.device.type not in _DEVICES


@torch.library.custom_op("attndense::neighbourhood_sum", mutates_args=(), device_types="cpu")
def _sum(weights: Tensor, values: Tensor, stride: int, dilation: int) -> Tensor:
    out = values.new_empty((*weights.shape[:4], values.shape[4]))
    blocks.weighted_sum(weights, values, out, stride, dilation)
    return out


@torch.library.custom_op("attndense::neighbourhood_products", mutates_args=(), device_types="cpu")
def _products(queries: Tensor, keys: Tensor, kernel_size: int, stride: int, dilation: int) -> Tensor:
    out = queries.new_empty((*queries.shape[:4], kernel_size**2))
    blocks.inner_products(queries, keys, out, kernel_size, stride, dilation)
    return out


@torch.library.custom_op("attndense::neighbourhood_scatter", mutates_args=(), device_types="cpu")
def _scatter(weights: Tensor, queries: Tensor, height: int, width: int, stride: int, dilation: int) -> Tensor:
    batch, heads, channels = queries.shape[0], queries.shape[3], queries.shape[4]
    out = queries.new_empty((batch, height, width, heads, channels))
    blocks.scatter(weights, queries, out, stride, dilation)
    return out


@_sum.register_kernel("cuda")
def _(weights: Tensor, values: Tensor, stride: int, dilation: int) -> Tensor:
    from attention.functional.neighbourhood import launch

    return launch.weighted_sum(weights, values, stride, dilation)


@_products.register_kernel("cuda")
def _(queries: Tensor, keys: Tensor, kernel_size: int, stride: int, dilation: int) -> Tensor:
    from attention.functional.neighbourhood import launch

    return launch.inner_products(queries, keys, kernel_size, stride, dilation)


@_scatter.register_kernel("cuda")
def _(weights: Tensor, queries: Tensor, height: int, width: int, stride: int, dilation: int) -> Tensor:
    from attention.functional.neighbourhood import launch

    return launch.scatter(weights, queries, height, width, stride, dilation)


@_sum.register_fake
def _(weights: Tensor, values: Tensor, stride: int, dilation: int) -> Tensor:
    return values.new_empty((*weights.shape[:4], values.shape[4]))


@_products.register_fake
def _(queries: Tensor, keys: Tensor, kernel_size: int, stride: int, dilation: int) -> Tensor:
    return queries.new_empty((*queries.shape[:4], kernel_size**2))


@_scatter.register_fake
def _(weights: Tensor, queries: Tensor, height: int, width: int, stride: int, dilation: int) -> Tensor:
    return queries.new_empty((queries.shape[0], height, width, *queries.shape[3:]))


def _save_sum(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor) -> None:
    weights, values, ctx.stride, ctx.dilation = inputs
    ctx.save_for_backward(weights, values)


def _sum_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    weights, values = ctx.saved_tensors
    of_weights = of_values = None
    if ctx.needs_input_grad[0]:
        of_weights = _products(gradient, values, _side(weights), ctx.stride, ctx.dilation)
    if ctx.needs_input_grad[1]:
        of_values = _scatter(weights, gradient, *values.shape[1:3], ctx.stride, ctx.dilation)
    return of_weights, of_values, None, None


def _save_products(ctx: Any, inputs: tuple[Tensor, Tensor, int, int, int], output: Tensor) -> None:
    queries, keys, _, ctx.stride, ctx.dilation = inputs
    ctx.save_for_backward(queries, keys)


def _products_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
    queries, keys = ctx.saved_tensors
    of_queries = of_keys = None
    if ctx.needs_input_grad[0]:
        of_queries = _sum(gradient, keys, ctx.stride, ctx.dilation)
    if ctx.needs_input_grad[1]:
        of_keys = _scatter(gradient, queries, *keys.shape[1:3], ctx.stride, ctx.dilation)
    return of_queries, of_keys, None, None, None


def _save_scatter(ctx: Any, inputs: tuple[Tensor, Tensor, int, int, int, int], output: Tensor) -> None:
    weights, queries, _, _, ctx.stride, ctx.dilation = inputs
    ctx.save_for_backward(weights, queries)


def _scatter_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
    weights, queries = ctx.saved_tensors
    of_weights = of_queries = None
    if ctx.needs_input_grad[0]:
        of_weights = _products(queries, gradient, _side(weights), ctx.stride, ctx.dilation)
    if ctx.needs_input_grad[1]:
        of_queries = _sum(weights, gradient, ctx.stride, ctx.dilation)
    return of_weights, of_queries, None, None, None, None


_sum.register_autograd(_sum_backward, setup_context=_save_sum)
_products.register_autograd(_products_backward, setup_context=_save_products)
_scatter.register_autograd(_scatter_backward, setup_context=_save_scatter)


def _side(weights: Tensor) -> int:
    """Side k of the neighbourhood of weights (..., k k)."""
    return round(weights.shape[-1] ** 0.5)


@register_flop_formula(torch.ops.attndense.neighbourhood_sum)
def _sum_flops(weights: torch.Size, values: torch.Size, *_: int, **__: Any) -> int:
    """Two per query, cell of its neighbourhood and channel."""
    return 2 * weights.numel() * values[-1]


@register_flop_formula(torch.ops.attndense.neighbourhood_products)
def _products_flops(queries: torch.Size, keys: torch.Size, kernel_size: int, *_: int, **__: Any) -> int:
    return 2 * queries.numel() * kernel_size**2


@register_flop_formula(torch.ops.attndense.neighbourhood_scatter)
def _scatter_flops(weights: torch.Size, queries: torch.Size, *_: int, **__: Any) -> int:
    return 2 * weights.numel() * queries[-1]
