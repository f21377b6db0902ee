"""Pools of a map whose gradients are added to one copy of the gradient of the map.

Under plain autograd each pool writes one full-size gradient. Here a pool leaves none of its own where the pooled map is
read further by `attention.functional.gating.gated`, and several pools of a map are computed in one pass over it.

Compiled and exported graphs, `torch.func` transforms and second derivatives get the plain expressions.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from attention.functional.pieces import BACK, FIRST, LAST, is_channels_last, learns, piece_of, pieces
from attention.functional.plain import is_exporting, is_plain, is_transforming


def pooled(
    x: Tensor, means: Sequence[tuple[int, ...]] = (), maxima: Sequence[tuple[int, ...]] = ()
) -> tuple[Tensor, list[Tensor]]:
    """A map and its means and maxima over some axes, which keep the size 1.

    Whatever reads the map after its pooling should read the returned one: the gradients of the pools are added to a copy
    of the gradient that comes back through it. Maxima give their gradient to the first of equal cells.

    A reduction whose output layout disagrees with the layout of its input is up to 40 times slower on a CPU
    (2 x 256 x 100 x 136, one thread: `mean(3)` 1 ms contiguous, 44 ms channels_last), so maps are reduced in the layout
    that they already have.

    Args:
        x: Map (B, C, H, W).
        means: For every mean its axes, counted from 0.
        maxima: For every maximum its axes: `(1,)` or `(2, 3)`.

    Returns:
        The map itself, and a list of first the means, then the maxima.
    """
    if is_plain():
        return x, _plainly_reduced(x, means, maxima)
    last = is_channels_last(x)
    order = LAST if last else FIRST
    x = x.permute(order)
    mean_axes, maximum_axes = (
        tuple(tuple(sorted(order.index(axis) for axis in axes)) for axes in pools) for pools in (means, maxima)
    )
    if learns(x) and x.is_contiguous():
        x, *pools = _Pooled.apply(x, mean_axes, maximum_axes)
        pools = pools[: len(means) + len(maxima)]
    else:
        pools = _reduced(x, mean_axes, maximum_axes)
    return (x.permute(BACK), [pool.permute(BACK) for pool in pools]) if last else (x, pools)


def mean(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Mean of a map over some of its axes, which keep the size 1, in the layout that the map has.

    Args:
        x: Map (B, C, H, W).
        axes: Axes to average over, counted from 0.
    """
    plain = is_plain()
    last = not plain and is_channels_last(x)
    if last:
        x, axes = x.permute(LAST), tuple(LAST.index(axis) for axis in axes)
    averaged: Tensor = _Mean.apply(x, axes) if learns(x) and not plain else x.mean(axes, keepdim=True)
    return averaged.permute(BACK) if last else averaged


class _Pooled(Function):
    """A contiguous map as it is, then its means, its maxima, and the maxima's places, which have no gradient."""

    @staticmethod
    def forward(x: Tensor, means: tuple[tuple[int, ...], ...], maxima: tuple[tuple[int, ...], ...]) -> Any:
        values, places = [], []
        for axes in maxima:
            value, place = _maximum(x, axes)
            values.append(value.view(_reduced_shape(x, axes)))
            places.append(place)
        return x, *_reduced(x, means), *values, *places

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, ctx.means, ctx.maxima = inputs
        ctx.shape = x.shape
        places = output[1 + len(ctx.means) + len(ctx.maxima) :]
        ctx.save_for_backward(*places)
        ctx.mark_non_differentiable(*places)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, of_x: Tensor | None, *of_pools: Tensor | None) -> tuple[Tensor | None, None, None]:
        if of_x is None:
            reference = next((pool for pool in of_pools if pool is not None), None)
            if reference is None:
                return None, None, None
            of_x = reference.new_zeros(ctx.shape)
        if torch.is_grad_enabled():
            return _Pooled._differentiable(ctx, of_x, *of_pools), None, None
        # A copy, as others may hold what is handed in: `y + w` gives the same tensor to y and to w.
        of_x = of_x.clone(memory_format=torch.contiguous_format)  # lines of other layouts would be copies, lost below
        of_means = [(axes, of_mean) for axes, of_mean in zip(ctx.means, of_pools, strict=False) if of_mean is not None]
        of_means = [(axes, of_mean.div(_count(ctx.shape, axes)).contiguous()) for axes, of_mean in of_means]
        if of_means:
            for piece in pieces(of_x):
                target = of_x[piece]
                for _, of_mean in of_means:
                    target += piece_of(of_mean, piece)
        for axes, of_maximum, place in zip(ctx.maxima, of_pools[len(ctx.means) :], ctx.saved_tensors, strict=False):
            if of_maximum is not None:  # every place occurs once, so that scattering is deterministic
                lines = _lines(of_x, axes)
                found = lines.gather(axes[0], place)
                lines.scatter_(axes[0], place, found + of_maximum.reshape(place.shape))
        return of_x, None, None

    @staticmethod
    def _differentiable(ctx: Any, total: Tensor, *of_pools: Tensor | None) -> Tensor:
        """The same gradient as a part of the graph: nothing of it is written in place."""
        for axes, of_mean in zip(ctx.means, of_pools, strict=False):
            if of_mean is not None:
                total = total + of_mean / _count(ctx.shape, axes)
        for axes, of_maximum, place in zip(ctx.maxima, of_pools[len(ctx.means) :], ctx.saved_tensors, strict=False):
            if of_maximum is not None:
                lines = total.flatten(axes[0], axes[-1])
                total = lines.scatter_add(axes[0], place, of_maximum.reshape(place.shape)).view(ctx.shape)
        return total


def _count(shape: torch.Size, axes: tuple[int, ...]) -> int:
    return math.prod(shape[axis] for axis in axes)


def _reduced(x: Tensor, means: Sequence[tuple[int, ...]], maxima: Sequence[tuple[int, ...]] = ()) -> list[Tensor]:
    """Means and maxima over several sets of axes, which stay with size one; the map is read once for all."""
    if len(means) + len(maxima) < 2 or not x.is_contiguous():
        return _plainly_reduced(x, means, maxima)
    precision = torch.promote_types(x.dtype, torch.float32)
    sums = [x.new_zeros(_reduced_shape(x, axes), dtype=precision) for axes in means]
    tops = [x.new_full(_reduced_shape(x, axes), -math.inf) for axes in maxima]
    for piece in pieces(x):
        part = x[piece]
        for total, axes in zip(sums, means, strict=True):
            target = piece_of(total, piece)
            if 1 in axes:
                target += part.sum(axes, keepdim=True, dtype=precision)
            else:  # nothing of it belongs to another piece
                torch.sum(part, axes, keepdim=True, dtype=precision, out=target)
        for top, axes in zip(tops, maxima, strict=True):
            target = piece_of(top, piece)
            torch.maximum(target, part.amax(axes, keepdim=True), out=target)
    return [total.div_(_count(x.shape, axes)).to(x.dtype) for total, axes in zip(sums, means, strict=True)] + tops


def _plainly_reduced(x: Tensor, means: Sequence[tuple[int, ...]], maxima: Sequence[tuple[int, ...]]) -> list[Tensor]:
    if is_exporting() or not (learns(x) or is_transforming()):
        tops = [x.amax(axes, keepdim=True) for axes in maxima]
    else:  # amax would divide its gradient among equal cells
        tops = [_lines(x, axes).max(axes[0], keepdim=True).values.view(_reduced_shape(x, axes)) for axes in maxima]
    return [x.mean(axes, keepdim=True) for axes in means] + tops


def _reduced_shape(x: Tensor, axes: tuple[int, ...]) -> list[int]:
    return [1 if axis in axes else size for axis, size in enumerate(x.shape)]


def _lines(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The map with its reduced axes, which are neighbours, as one; a view if it is contiguous."""
    return x.flatten(axes[0], axes[-1])


def _maximum(x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Maxima of a contiguous map and the first places where they occur, in the shape of its reduced `_lines`.

    Reductions that note places run element by element on a CPU, those that do not are vectorised. So the maxima of rows
    come first; then only they, and the members of the winning row, are searched for the place.
    """
    if len(axes) == 1 or not x.is_cpu:
        value, place = _lines(x, axes).max(axes[0], keepdim=True)
        return value, place
    along, within = axes
    value, row = x.amax(within).max(along, keepdim=True)
    shape = [x.shape[within] if axis == within else size for axis, size in enumerate(row.unsqueeze(within).shape)]
    winner = x.gather(along, row.unsqueeze(within).expand(shape)).squeeze(along)
    return value, row * x.shape[within] + winner.argmax(along, keepdim=True)


class _Mean(Function):
    """Mean over axes that stay; PyTorch's own writes its gradient out at full size, this one leaves it a broadcast."""

    @staticmethod
    def forward(x: Tensor, axes: tuple[int, ...]) -> Tensor:
        return x.mean(axes, keepdim=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, tuple[int, ...]], output: Tensor) -> None:
        ctx.shape, ctx.axes = inputs[0].shape, inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return (gradient / _count(ctx.shape, ctx.axes)).contiguous().expand(ctx.shape), None
