"""Depth-wise convolution whose kernels' gradient is computed in groups of channels on a CPU.

oneDNN (3.x) takes many times a forward pass for the gradient of depth-wise k x k kernels. The same gradient as part of
that of a grouped convolution with 16 channels per group, of which the diagonal is kept, takes less although it is 16
times the arithmetic.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attention.functional.plain import differentiable, is_plain

_GROUP = 16  # channels; 8 and 32 are slower


def depthwise(values: Tensor, kernels: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """Correlation of every channel with its own kernel; positions outside the map count as zero.

    Args:
        values: Map (B, C, H, W).
        kernels: Kernels (C, 1, k, k), k odd.
        stride: Distance between positions of the result in cells of the map, at least 1.
        dilation: Distance between the cells of a kernel, at least 1.

    Returns:
        Map (B, C, ceil(H / stride), ceil(W / stride)).
    """
    in_groups = values.device.type == "cpu" and values.dtype == torch.float32 and len(kernels) % _GROUP == 0
    if is_plain() or torch.is_autocast_enabled("cpu") or not in_groups:
        return _plain(values, kernels, stride, dilation)
    out: Tensor = _Depthwise.apply(values, kernels, stride, dilation)
    return out


def _plain(values: Tensor, kernels: Tensor, stride: int, dilation: int) -> Tensor:
    return F.conv2d(values, kernels, None, stride, dilation * (kernels.shape[-1] // 2), dilation, len(kernels))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, kernels: Tensor, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(values, kernels)
        ctx.stride, ctx.dilation = stride, dilation
        return _plain(values, kernels, stride, dilation)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, kernels = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            expression = partial(_plain, stride=ctx.stride, dilation=ctx.dilation)
            return *differentiable(expression, ctx.saved_tensors, ctx.needs_input_grad[:2], gradient), None, None
        geometry = [ctx.stride] * 2, [ctx.dilation * (kernels.shape[-1] // 2)] * 2, [ctx.dilation] * 2
        channels, shape = len(kernels), kernels.shape[2:]
        of_values = of_kernels = None
        if ctx.needs_input_grad[0]:
            of_values = _backward(gradient, values, kernels, geometry, channels, 0)
        if ctx.needs_input_grad[1]:
            wide = kernels.new_empty(channels, _GROUP, *shape)  # only its shape counts
            of_all = _backward(gradient, values, wide, geometry, channels // _GROUP, 1)
            of_kernels = of_all.view(-1, _GROUP, _GROUP, *shape).diagonal(0, 1, 2).permute(0, 3, 1, 2)
            of_kernels = of_kernels.reshape(kernels.shape)
        return of_values, of_kernels, None, None


def _backward(
    gradient: Tensor, values: Tensor, kernels: Tensor, geometry: tuple[list[int], ...], groups: int, index: int
) -> Tensor:
    """Gradient of the values (index 0) or the kernels (index 1) of a convolution."""
    mask = [index == 0, index == 1, False]
    gradients = torch.ops.aten.convolution_backward(
        gradient, values, kernels, None, *geometry, False, [0, 0], groups, mask
    )
    chosen: Tensor = gradients[index]
    return chosen
