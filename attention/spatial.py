"""The spatial attention module of CBAM (Woo et al., ECCV 2018, arXiv 1807.06521), usable on its own."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from attention.base import Refine, check_choice, check_odd
from attention.pooling import gated, maximum, mean

SpatialPooling = Literal["avg_max", "avg", "max", "conv"]


class SpatialAttention(Refine):
    """Positions weighted by a gate computed from the maximum and the mean over channels.

        M = sigmoid(BN(conv_{k x k}([max_C x; mean_C x])))      (B, 1, H, W)
        y = x * M                               `conv`: one plane conv_{1x1} x for the two

    arXiv 1807.06521, equation 5. Two details follow the authors' released networks where the paper is silent or
    differs: the planes are stacked maximum first, and the convolution has no bias but a batch normalisation of one
    channel (momentum 0.01) whose weight starts at zero, so that every position is first weighted by exactly one half
    (assumption A20).

    The paper compares with one plane that a 1x1 convolution learns; it has a bias where the other has one, and no
    activation (assumption A42). Without norm the gate starts where the random kernel puts it; a bias takes the norm's
    place in many implementations.

    The convolution sees zeros beyond the border. Of equal maxima the first channel gets the gradient. It compiles and
    exports: poolings, a convolution and a product.

    Parameters: 2 k^2 + 2 (100 for k = 7), with one pooling k^2 + 2, both independent of C, with `conv` k^2 + 2 + C; two
    less without norm, one more (`conv`: two) with biases. Cost: 2 k^2 H W multiply-accumulates, one pass over the map
    for each pooling and one for the product.

    Place: on the residual branch of a block behind its last norm, before the addition.

    Args:
        channels: Number of channels C of the map, at least 1. Parameters depend on it with `conv` only.
        kernel_size: Side k of the convolution in cells of the map, odd. The paper takes 7 and compares with 3.
        pooling: Planes the gate sees: `avg_max` (the paper), only `avg` or only `max` over channels, or `conv`, one
            plane of a 1x1 convolution.
        norm: Whether a batch normalisation follows the convolution, as in the authors' code.
        bias: Whether the convolution, and that of `conv`, has a bias.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 7,
        pooling: SpatialPooling = "avg_max",
        norm: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__(channels)
        check_choice("pooling", pooling, get_args(SpatialPooling))
        check_odd(kernel_size=kernel_size)
        self.pooling: SpatialPooling = pooling
        planes = 2 if pooling == "avg_max" else 1
        self.reduce = nn.Conv2d(channels, 1, 1, bias=bias) if pooling == "conv" else None
        self.conv = nn.Conv2d(planes, 1, kernel_size, padding=kernel_size // 2, bias=bias)
        self.bn = nn.BatchNorm2d(1, momentum=0.01) if norm else None
        for layer in (self.reduce, self.conv):
            if layer is not None:
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        if self.bn is not None:
            nn.init.zeros_(self.bn.weight)

    def gate(self, x: Tensor) -> Tensor:
        """Weights of the positions of `x` (B, C, H, W), as (B, 1, H, W)."""
        if self.reduce is not None:
            planes = self.reduce(x)
        else:
            pools = {"max": maximum, "avg": mean}  # in the order of the planes
            planes = torch.cat([pool(x, 1) for name, pool in pools.items() if name in self.pooling], 1)
        scores = self.conv(planes)
        weights = torch.sigmoid(scores if self.bn is None else self.bn(scores))
        if self.recording:
            self.record("position", weights)
        return weights

    def forward(self, x: Tensor) -> Tensor:
        """Weights the positions of `x` (B, C, H, W)."""
        return gated(x, self.gate(x))
