"""The à trous conversion: strides of a network replaced by dilation, its weights and its function kept.

Removing a stride leaves the following kernels on a grid that is too fine; spreading their taps by the removed stride
makes the denser map agree with the original map on the original grid (Chen et al., DeepLab, arXiv 1606.00915).
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from attention.functional.layout.cells import cell_means

Dilation = Literal["a_trous", "mmsegmentation"]
"""`a_trous`: dense maps agree with the strided ones on their grid. `mmsegmentation`: fewer layers dilate, as there."""


class CellMean(nn.Module):
    """Mean of every cell of stride x stride positions; of the four at a distance, where that stride was replaced.

    Args:
        stride: Side of a cell: 1 for none, or 2.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride, self.distance = stride, 0

    def forward(self, x: Tensor) -> Tensor:
        """Means (B, C, ceil(H / stride), ceil(W / stride)) of a map (B, C, H, W); beyond the map there is nothing."""
        for axis in (2, 3) if self.distance else ():
            ahead = x.narrow(axis, min(self.distance, x.shape[axis]), max(x.shape[axis] - self.distance, 0))
            own = x.narrow(axis, ahead.shape[axis], x.shape[axis] - ahead.shape[axis])
            x = (x + torch.cat([ahead, own], axis)) / 2
        return cell_means(x, self.stride)


def dilate_stages(stages: Iterable[Iterable[nn.Module]], output_stride: int) -> tuple[int, ...]:
    """Dilates a network's stages of stride 4, 8, 16 and 32 in place, and returns the strides that are left.

    Args:
        stages: The blocks of each of the four, in the order of the data flow; see `dilate`.
        output_stride: Largest stride that stays.
    """
    strides, rate = (4, 8, 16, 32), 1
    for stage, stride in zip(stages, strides, strict=True):
        if stride > output_stride:
            rate = dilate(stage, rate)
    return tuple(min(stride, output_stride) for stride in strides)


def dilate(blocks: Iterable[nn.Module], rate: int = 1) -> int:
    """Removes the strides of `blocks` in place, dilates the convolutions behind them, and returns the final rate.

    Within a block, convolutions must be registered in the order of the data flow, and a stride that counts must sit on
    a spatial convolution: strided 1x1 convolutions are taken for shortcuts, which run beside it.

    Args:
        blocks: Modules in the order of the data flow, starting with the first that is to lose its stride.
        rate: Product of the strides that were removed before `blocks`, at least 1.
    """
    for block in blocks:
        before = rate
        for layer in block.modules():
            if isinstance(layer, CellMean):
                layer.distance, layer.stride = (before if layer.stride > 1 else 0), 1
            if not isinstance(layer, nn.Conv2d):
                continue
            stride, layer.stride = layer.stride[0], (1, 1)
            if layer.kernel_size[0] > 1:
                set_rate(layer, rate)
                rate *= stride
    return rate


def set_rate(layer: nn.Conv2d, rate: int) -> None:
    """Spreads the taps of a convolution, and its padding with them."""
    layer.dilation = (rate, rate)
    layer.padding = (rate * (layer.kernel_size[0] // 2), rate * (layer.kernel_size[1] // 2))
