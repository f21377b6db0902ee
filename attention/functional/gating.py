"""Gates multiplied onto a map with as little memory traffic as their gradients allow.

What a gate costs is memory traffic, and a fresh full-size temporary costs twice its size in traffic. Under plain
autograd a product with two gates writes two maps forward and five backward. Here the forward pass writes the result
alone and the backward pass the gradient of the map alone; `attention.functional.pools` adds the gradients of pools to
it in place.

Compiled and exported graphs, `torch.func` transforms and second derivatives get the plain expressions.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from attention.functional.pieces import BACK, LAST, is_channels_last, learns, piece_of, pieces
from attention.functional.plain import differentiable, is_plain


def gated(x: Tensor, *gates: Tensor) -> Tensor:
    """Product of a map and gates that broadcast to it, in the map's precision and memory format.

    Args:
        x: Map (B, C, H, W).
        gates: One or more tensors (B, C or 1, H or 1, W or 1).
    """
    gates = tuple(gate.to(x.dtype) for gate in gates)
    plain = is_plain()
    last = not plain and is_channels_last(x)
    if last:
        x, gates = x.permute(LAST), tuple(gate.permute(LAST) for gate in gates)
    if plain or not x.is_contiguous():
        product = _plain_product(x, *gates)
    else:
        gates = tuple(gate.contiguous() for gate in gates)  # otherwise they are read with strides for every position
        product = _Gated.apply(x, *gates) if learns(x, *gates) else _product(x, gates)
    return product.permute(BACK) if last else product


def jointly_gated(x: Tensor, of_channels: Tensor, of_positions: Tensor, product: bool) -> Tensor:
    """A map times one plus the sigmoid of joined scores, `x * (1 + sigmoid(c * s))` or `x * (1 + sigmoid(c + s))`.

    Args:
        x: Map (B, C, H, W).
        of_channels: Scores c (B, C, 1, 1).
        of_positions: Scores s (B, 1, H, W).
        product: Whether scores are multiplied; otherwise they are added.
    """
    of_channels, of_positions = of_channels.to(x.dtype), of_positions.to(x.dtype)
    plain = is_plain()
    last = not plain and is_channels_last(x)
    if last:
        x, of_channels, of_positions = (each.permute(LAST).contiguous() for each in (x, of_channels, of_positions))
    if plain or not x.is_contiguous():
        amplified = _plainly_amplified(x, of_channels, of_positions, product)
    else:
        amplified = _JointlyGated.apply(x, of_channels, of_positions, product)
    return amplified.permute(BACK) if last else amplified


def _plain_product(x: Tensor, *gates: Tensor) -> Tensor:
    for gate in gates:
        x = x * gate
    return x


def _plainly_amplified(x: Tensor, first: Tensor, second: Tensor, product: bool) -> Tensor:
    return x * (1 + torch.sigmoid(first * second if product else first + second))


def _product(x: Tensor, gates: tuple[Tensor, ...]) -> Tensor:
    """Product of a contiguous map and gates of its dtype, in one fresh tensor."""
    if len(gates) == 1:
        return x * gates[0]
    out = torch.empty_like(x)
    for piece in pieces(x):
        factor = piece_of(gates[0], piece)
        for gate in gates[1:]:  # first the gates, whose product stays in the cache: the result is written only once
            factor = factor * piece_of(gate, piece)
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
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *gates = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable(_plain_product, ctx.saved_tensors, ctx.needs_input_grad, gradient)
        of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        wanted = [index for index in range(len(gates)) if ctx.needs_input_grad[index + 1]]
        # Sums of many pieces are kept in float32 where the map has half precision.
        precision = torch.promote_types(x.dtype, torch.float32)
        of_gates = {index: torch.zeros_like(gates[index], dtype=precision) for index in wanted}
        buffer: Tensor | None = None
        for piece in pieces(x):
            part, above = x[piece], gradient[piece]
            factors = [piece_of(gate, piece) for gate in gates]
            if buffer is None or buffer.shape != part.shape:
                buffer = torch.empty_like(part)
            for index in wanted:  # dL/dgate = sum over its axes of dL/dy * x * the other gates
                torch.mul(above, part, out=buffer)
                for other, factor in enumerate(factors):
                    if other != index:
                        buffer.mul_(factor)
                axes = [axis for axis in range(4) if factors[index].shape[axis] < part.shape[axis]]
                target = piece_of(of_gates[index], piece)
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
        for piece in pieces(x):
            part, target = x[piece], out[piece]
            join(piece_of(first, piece), piece_of(second, piece), out=target)
            torch.addcmul(part, part, target.sigmoid_(), out=target)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.product = inputs[3]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *scores = ctx.saved_tensors
        if torch.is_grad_enabled():
            expression = partial(_plainly_amplified, product=ctx.product)
            return *differentiable(expression, ctx.saved_tensors, ctx.needs_input_grad[:3], gradient), None
        join = torch.mul if ctx.product else torch.add
        precision = torch.promote_types(x.dtype, torch.float32)
        of_x = torch.empty_like(x)
        of_scores = [torch.zeros_like(score, dtype=precision) for score in scores]
        buffer: Tensor | None = None
        for piece in pieces(x):
            part, above, target = x[piece], gradient[piece], of_x[piece]
            factors = [piece_of(score, piece) for score in scores]
            if buffer is None or buffer.shape != part.shape:
                buffer = torch.empty_like(part)
            joined = join(*factors, out=buffer).sigmoid_()
            torch.mul(above, joined, out=target)  # dL/dy sigma, so that dL/dx = dL/dy + dL/dy sigma
            torch.addcmul(target, target, joined, value=-1, out=buffer).mul_(part)  # dL/dy sigma (1 - sigma) x
            target.add_(above)
            for index, (factor, other) in enumerate(zip(factors, reversed(factors), strict=True)):
                weighted = buffer * other if ctx.product else buffer
                axes = [axis for axis in range(4) if factor.shape[axis] < part.shape[axis]]
                of_score = piece_of(of_scores[index], piece)
                of_score += weighted.sum(axes, keepdim=True, dtype=precision) if axes else weighted
        return of_x, *(of_score.to(x.dtype) for of_score in of_scores), None
