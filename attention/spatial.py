"""The spatial attention module of CBAM (Woo et al., ECCV 2018, arXiv 1807.06521), usable on its own."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from attention.base import Refine, check_choice, check_odd
from attention.pooling import gated, maximum, mean

SpatialPooling = Literal["avg_max", "avg", "max"]


class SpatialAttention(Refine):
    """Positions weighted by a gate computed from the maximum and the mean over channels.

        M = sigmoid(BN(conv_{k x k}([max_C x; mean_C x])))      (B, 1, H, W)
        y = x * M

    arXiv 1807.06521, equation 5. Two details follow the authors' released networks where the paper is silent or
    differs: the planes are stacked maximum first, and the convolution has no bias but a batch normalisation of one
    channel (momentum 0.01) whose weight starts at zero, so that every position is first weighted by exactly one half
    (assumption A20).

    The convolution sees zeros beyond the border. Of equal maxima the first channel gets the gradient. It compiles and
    exports: poolings, a convolution and a product.

    Parameters: 2 k^2 + 2 (100 for k = 7), with one pooling k^2 + 2; independent of C. Cost: 2 k^2 H W
    multiply-accumulates, one pass over the map for each pooling and one for the product.

    Place: on the residual branch of a block behind its last norm, before the addition.

    Args:
        channels: Number of channels C of the map, at least 1. Parameters do not depend on it.
        kernel_size: Side k of the convolution in cells of the map, odd. The paper takes 7 and compares with 3.
        pooling: Planes the gate sees: `avg_max` (the paper), or only `avg` or only `max` over channels.
    """

    def __init__(self, channels: int, kernel_size: int = 7, pooling: SpatialPooling = "avg_max") -> None:
        super().__init__(channels)
        check_choice("pooling", pooling, get_args(SpatialPooling))
        check_odd(kernel_size=kernel_size)
        self.pooling: SpatialPooling = pooling
        planes = 2 if pooling == "avg_max" else 1
        self.conv = nn.Conv2d(planes, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(1, momentum=0.01)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        nn.init.zeros_(self.bn.weight)

    def gate(self, x: Tensor) -> Tensor:
        """Weights of the positions of `x` (B, C, H, W), as (B, 1, H, W)."""
        pools = {"max": maximum, "avg": mean}  # in the order of the planes
        planes = [pool(x, 1) for name, pool in pools.items() if name in self.pooling]
        weights = torch.sigmoid(self.bn(self.conv(torch.cat(planes, 1))))
        if self.recording:
            self.record("position", weights)
        return weights

    def forward(self, x: Tensor) -> Tensor:
        """Weights the positions of `x` (B, C, H, W)."""
        return gated(x, self.gate(x))
