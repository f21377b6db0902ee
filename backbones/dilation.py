"""The à trous conversion: strides of a network replaced by dilation, its weights and its function kept.

Removing a stride leaves the following kernels on a grid that is too fine; spreading their taps by the removed stride
makes the denser map agree with the original map on the original grid (Chen et al., DeepLab, arXiv 1606.00915).
"""

from collections.abc import Iterable

from torch import nn


def dilate(blocks: Iterable[nn.Module], rate: int = 1) -> int:
    """Removes the strides of `blocks` in place, dilates the convolutions behind them, and returns the final rate.

    Within a block, convolutions must be registered in the order of the data flow, and a stride that counts must sit on
    a spatial convolution: strided 1x1 convolutions are taken for shortcuts, which run beside it.

    Args:
        blocks: Modules in the order of the data flow, starting with the first that is to lose its stride.
        rate: Product of the strides that were removed before `blocks`, at least 1.
    """
    for block in blocks:
        for layer in block.modules():
            if not isinstance(layer, nn.Conv2d):
                continue
            stride, layer.stride = layer.stride[0], (1, 1)
            if layer.kernel_size[0] > 1:
                layer.dilation = (rate, rate)
                layer.padding = (rate * (layer.kernel_size[0] // 2), rate * (layer.kernel_size[1] // 2))
                rate *= stride
    return rate
