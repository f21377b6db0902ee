"""The second half of a transformer's MLP with a third less memory."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer of GELU(x); the activation is computed again in the backward pass instead of kept.

    GELU's own gradient needs its input anyway, so the widest tensor of a block is kept once instead of twice; the time
    is that of one more GELU. Under autocast and `torch.compile`, which decide themselves, this is the plain expression.

    Args:
        x: Input of the activation, (..., C_in).
        weight: Weight (C_out, C_in).
        bias: Bias (C_out), or none.
    """
    plain = torch.compiler.is_compiling() or x.is_meta or not torch.is_grad_enabled()
    if plain or torch.is_autocast_enabled(x.device.type):
        return F.linear(F.gelu(x), weight, bias)
    out: Tensor = _GeluLinear.apply(x, weight, bias)
    return out


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[1]:
            of_weight = rows.T @ F.gelu(x).flatten(0, -2)
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0)
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.gelu_backward(gradient @ weight, x)
        return of_x, of_weight, of_bias
