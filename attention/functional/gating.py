"""Gates multiplied onto a map, and pools of a map, with as little memory traffic as their gradients allow.

What a gate costs is memory traffic, and a fresh full-size temporary costs twice its size in traffic. Under plain
autograd a product with two gates writes two maps forward and five backward, and each pool writes one backward. Here the
forward pass writes the result alone and the backward pass the gradient of the map alone, in pieces that stay in the
processor's cache between their steps; gradients of pools are added to it in place.

Compiled and exported graphs get the plain expressions, which compilers fuse themselves. The hand-written gradients can
be taken once; differentiating them again raises an error that says so.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# Bytes of a map that one thread works on at a time: three such pieces fit into a second-level cache.
PIECE = 1 << 19

# Axes of a (B, C, H, W) map in the order in which they lie in memory, and the way back.
_FIRST, _LAST, _BACK = (0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2)


def gated(x: Tensor, *gates: Tensor) -> Tensor:
    """Product of a map and gates that broadcast to it, in the map's precision and memory format.

    Args:
        x: Map (B, C, H, W).
        gates: One or more tensors (B, C or 1, H or 1, W or 1).
    """
    gates = tuple(gate.to(x.dtype) for gate in gates)
    last = not _is_traced() and _is_channels_last(x)
    if last:
        x, gates = x.permute(_LAST), tuple(gate.permute(_LAST) for gate in gates)
    if _is_traced() or not x.is_contiguous():
        product = x
        for gate in gates:
            product = product * gate
    else:
        gates = tuple(gate.contiguous() for gate in gates)  # otherwise they are read with strides for every position
        product = _Gated.apply(x, *gates) if _learns(x, *gates) else _product(x, gates)
    return product.permute(_BACK) if last else product


def jointly_gated(x: Tensor, of_channels: Tensor, of_positions: Tensor, product: bool) -> Tensor:
    """A map times one plus the sigmoid of joined scores, `x * (1 + sigmoid(c * s))` or `x * (1 + sigmoid(c + s))`.

    Args:
        x: Map (B, C, H, W).
        of_channels: Scores c (B, C, 1, 1).
        of_positions: Scores s (B, 1, H, W).
        product: Whether scores are multiplied; otherwise they are added.
    """
    of_channels, of_positions = of_channels.to(x.dtype), of_positions.to(x.dtype)
    last = not _is_traced() and _is_channels_last(x)
    if last:
        x, of_channels, of_positions = (each.permute(_LAST).contiguous() for each in (x, of_channels, of_positions))
    if _is_traced() or not x.is_contiguous():
        scores = of_channels * of_positions if product else of_channels + of_positions
        amplified = x * (1 + torch.sigmoid(scores))
    else:
        amplified = _JointlyGated.apply(x, of_channels, of_positions, product)
    return amplified.permute(_BACK) if last else amplified


def pooled(
    x: Tensor, means: Sequence[tuple[int, ...]] = (), maxima: Sequence[tuple[int, ...]] = ()
) -> tuple[Tensor, list[Tensor]]:
    """A map and its means and maxima over some axes, which keep the size 1.

    Whatever reads the map after its pooling must read the returned one, and only once, by `gated` or another `pooled`:
    the gradients of the pools are added in place to the gradient that comes back through it. Maxima give their gradient
    to the first of equal cells.

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
    if _is_traced():
        return x, [x.mean(axes, keepdim=True) for axes in means] + [x.amax(axes, keepdim=True) for axes in maxima]
    last = _is_channels_last(x)
    order = _LAST if last else _FIRST
    x = x.permute(order)
    mean_axes, maximum_axes = (
        tuple(tuple(sorted(order.index(axis) for axis in axes)) for axes in pools) for pools in (means, maxima)
    )
    if _learns(x) and x.is_contiguous():
        x, *pools = _Pooled.apply(x, mean_axes, maximum_axes)
        pools = pools[: len(means) + len(maxima)]
    else:
        pools = _reduced(x, mean_axes, maximum_axes)
    return (x.permute(_BACK), [pool.permute(_BACK) for pool in pools]) if last else (x, pools)


def mean(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Mean of a map over some of its axes, which keep the size 1, in the layout that the map has.

    Args:
        x: Map (B, C, H, W).
        axes: Axes to average over, counted from 0.
    """
    last = not _is_traced() and _is_channels_last(x)
    if last:
        x, axes = x.permute(_LAST), tuple(_LAST.index(axis) for axis in axes)
    averaged: Tensor = _Mean.apply(x, axes) if _learns(x) and not _is_traced() else x.mean(axes, keepdim=True)
    return averaged.permute(_BACK) if last else averaged


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _is_traced() -> bool:
    """Whether a graph is being recorded: hand-written gradients and pieces would only hide the expression in it."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def _learns(*tensors: Tensor) -> bool:
    """Whether somebody may want gradients; hand-written functions cost 0.2 ms, and are left out where nobody does."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _pieces(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of the first two axes of a contiguous `x` that cover it in pieces of the size of a cache."""
    samples, planes = x.shape[:2]
    size = x.numel() * x.element_size()
    if not x.is_cpu or not size:  # elsewhere starting a kernel costs more than a cache saves
        yield slice(None), slice(None)
        return
    count = -(-size // (PIECE * torch.get_num_threads()))
    per_piece = max(1, samples * planes // count)  # planes
    if per_piece >= planes:
        step = per_piece // planes
        for start in range(0, samples, step):
            yield slice(start, start + step), slice(None)
        return
    for sample in range(samples):
        for start in range(0, planes, per_piece):
            yield slice(sample, sample + 1), slice(start, start + per_piece)


def _piece(gate: Tensor, piece: tuple[slice, slice]) -> Tensor:
    """The part of a gate that belongs to a piece of the map."""
    samples, planes = piece
    return gate[samples, planes if gate.shape[1] > 1 else slice(None)]


def _product(x: Tensor, gates: tuple[Tensor, ...]) -> Tensor:
    """Product of a contiguous map and gates of its dtype, in one fresh tensor."""
    if len(gates) == 1:
        return x * gates[0]
    out = torch.empty_like(x)
    for piece in _pieces(x):
        factor = _piece(gates[0], piece)
        for gate in gates[1:]:  # first the gates, whose product stays in the cache: the result is written only once
            factor = factor * _piece(gate, piece)
        torch.mul(x[piece], factor, out=out[piece])
    return out


class _Gated(Function):
    """`_product` with its gradients."""

    @staticmethod
    def forward(x: Tensor, *gates: Tensor) -> Tensor:
        return _product(x, gates)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *gates = ctx.saved_tensors
        of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        wanted = [index for index in range(len(gates)) if ctx.needs_input_grad[index + 1]]
        # Sums of many pieces are kept in float32 where the map has half precision.
        precision = torch.promote_types(x.dtype, torch.float32)
        of_gates = {index: torch.zeros_like(gates[index], dtype=precision) for index in wanted}
        buffer: Tensor | None = None
        for piece in _pieces(x):
            part, above = x[piece], gradient[piece]
            factors = [_piece(gate, piece) for gate in gates]
            if buffer is None or buffer.shape != part.shape:
                buffer = torch.empty_like(part)
            for index in wanted:  # dL/dgate = sum over its axes of dL/dy * x * the other gates
                torch.mul(above, part, out=buffer)
                for other, factor in enumerate(factors):
                    if other != index:
                        buffer.mul_(factor)
                axes = [axis for axis in range(4) if factors[index].shape[axis] < part.shape[axis]]
                target = _piece(of_gates[index], piece)
                target += buffer.sum(axes, keepdim=True, dtype=precision) if axes else buffer
            if of_x is not None:  # dL/dx = dL/dy * all gates
                target = of_x[piece]
                torch.mul(above, factors[0], out=target)
                for factor in factors[1:]:
                    target.mul_(factor)
        return of_x, *(of_gates[i].to(x.dtype) if i in of_gates else None for i in range(len(gates)))


class _JointlyGated(Function):
    """`x * (1 + sigmoid(c * s))` or `... (c + s) ...` of contiguous maps; backward computes the sigmoid again."""

    @staticmethod
    def forward(x: Tensor, first: Tensor, second: Tensor, product: bool) -> Tensor:
        join = torch.mul if product else torch.add
        out = torch.empty_like(x)
        for piece in _pieces(x):
            part, target = x[piece], out[piece]
            join(_piece(first, piece), _piece(second, piece), out=target)
            torch.addcmul(part, part, target.sigmoid_(), out=target)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.product = inputs[3]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *scores = ctx.saved_tensors
        join = torch.mul if ctx.product else torch.add
        precision = torch.promote_types(x.dtype, torch.float32)
        of_x = torch.empty_like(x)
        of_scores = [torch.zeros_like(score, dtype=precision) for score in scores]
        buffer: Tensor | None = None
        for piece in _pieces(x):
            part, above, target = x[piece], gradient[piece], of_x[piece]
            factors = [_piece(score, piece) for score in scores]
            if buffer is None or buffer.shape != part.shape:
                buffer = torch.empty_like(part)
            joined = join(*factors, out=buffer).sigmoid_()
            torch.mul(above, joined, out=target)  # dL/dy sigma, so that dL/dx = dL/dy + dL/dy sigma
            torch.addcmul(target, target, joined, value=-1, out=buffer).mul_(part)  # dL/dy sigma (1 - sigma) x
            target.add_(above)
            for index, (factor, other) in enumerate(zip(factors, reversed(factors), strict=True)):
                weighted = buffer * other if ctx.product else buffer
                axes = [axis for axis in range(4) if factor.shape[axis] < part.shape[axis]]
                of_score = _piece(of_scores[index], piece)
                of_score += weighted.sum(axes, keepdim=True, dtype=precision) if axes else weighted
        return of_x, *(of_score.to(x.dtype) for of_score in of_scores), None


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
    @once_differentiable
    def backward(ctx: Any, of_x: Tensor | None, *of_pools: Tensor | None) -> tuple[Tensor | None, None, None]:
        if of_x is None:
            reference = next((pool for pool in of_pools if pool is not None), None)
            if reference is None:
                return None, None, None
            of_x = reference.new_zeros(ctx.shape)
        of_x = of_x.contiguous()  # as ours are; lines of other layouts would be copies, lost below
        of_means = [(axes, of_mean) for axes, of_mean in zip(ctx.means, of_pools, strict=False) if of_mean is not None]
        of_means = [(axes, of_mean.div(_count(ctx.shape, axes)).contiguous()) for axes, of_mean in of_means]
        if of_means:
            for piece in _pieces(of_x):
                target = of_x[piece]
                for _, of_mean in of_means:
                    target += _piece(of_mean, piece)
        for axes, of_maximum, place in zip(ctx.maxima, of_pools[len(ctx.means) :], ctx.saved_tensors, strict=False):
            if of_maximum is not None:  # every place occurs once, so that scattering is deterministic
                lines = _lines(of_x, axes)
                found = lines.gather(axes[0], place)
                lines.scatter_(axes[0], place, found + of_maximum.reshape(place.shape))
        return of_x, None, None


def _count(shape: torch.Size, axes: tuple[int, ...]) -> int:
    return math.prod(shape[axis] for axis in axes)


def _reduced(x: Tensor, means: Sequence[tuple[int, ...]], maxima: Sequence[tuple[int, ...]] = ()) -> list[Tensor]:
    """Means and maxima over several sets of axes, which stay with size one; the map is read once for all."""
    if len(means) + len(maxima) < 2 or not x.is_contiguous():
        return [x.mean(axes, keepdim=True) for axes in means] + [x.amax(axes, keepdim=True) for axes in maxima]
    precision = torch.promote_types(x.dtype, torch.float32)
    sums = [x.new_zeros(_reduced_shape(x, axes), dtype=precision) for axes in means]
    tops = [x.new_full(_reduced_shape(x, axes), -math.inf) for axes in maxima]
    for piece in _pieces(x):
        part = x[piece]
        for total, axes in zip(sums, means, strict=True):
            target = _piece(total, piece)
            if 1 in axes:
                target += part.sum(axes, keepdim=True, dtype=precision)
            else:  # nothing of it belongs to another piece
                torch.sum(part, axes, keepdim=True, dtype=precision, out=target)
        for top, axes in zip(tops, maxima, strict=True):
            target = _piece(top, piece)
            torch.maximum(target, part.amax(axes, keepdim=True), out=target)
    return [total.div_(_count(x.shape, axes)).to(x.dtype) for total, axes in zip(sums, means, strict=True)] + tops


def _reduced_shape(x: Tensor, axes: tuple[int, ...]) -> list[int]:
    return [1 if axis in axes else size for axis, size in enumerate(x.shape)]


def _lines(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """A view of a contiguous map in which the reduced axes, which are neighbours, are one."""
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
