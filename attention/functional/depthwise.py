"""Depth-wise convolution whose kernels' gradient is computed in groups of channels on a CPU.

oneDNN (3.x) takes many times a forward pass for the gradient of depth-wise k x k kernels. The same gradient as part of
that of a grouped convolution with 16 channels per group, of which the diagonal is kept, takes less although it is 16
times the arithmetic.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

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
    reach, channels = dilation * (kernels.shape[-1] // 2), len(kernels)
    in_groups = values.device.type == "cpu" and values.dtype == torch.float32 and channels % _GROUP == 0
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or not in_groups:
        return F.conv2d(values, kernels, None, stride, reach, dilation, channels)
    out: Tensor = _Depthwise.apply(values, kernels, stride, reach, dilation)
    return out


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, kernels: Tensor, stride: int, reach: int, dilation: int) -> Tensor:
        ctx.save_for_backward(values, kernels)
        ctx.geometry = ([stride] * 2, [reach] * 2, [dilation] * 2)
        return F.conv2d(values, kernels, None, stride, reach, dilation, len(kernels))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        values, kernels = ctx.saved_tensors
        channels, shape = len(kernels), kernels.shape[2:]
        of_values = of_kernels = None
        if ctx.needs_input_grad[0]:
            of_values = _backward(gradient, values, kernels, ctx.geometry, channels, 0)
        if ctx.needs_input_grad[1]:
            wide = kernels.new_empty(channels, _GROUP, *shape)  # only its shape counts
            of_all = _backward(gradient, values, wide, ctx.geometry, channels // _GROUP, 1)
            of_kernels = of_all.view(-1, _GROUP, _GROUP, *shape).diagonal(0, 1, 2).permute(0, 3, 1, 2)
            of_kernels = of_kernels.reshape(kernels.shape)
        return of_values, of_kernels, None, None, None


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
