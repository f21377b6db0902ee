"""CBAM, the convolutional block attention module (Woo et al., ECCV 2018, arXiv 1807.06521)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Refine, bottleneck_channels, check_choice
from attention.pooling import gated, global_max, global_mean
from attention.spatial import SpatialAttention, SpatialPooling

ChannelPooling = Literal["avg_max", "avg", "max"]
Order = Literal["channel_first", "spatial_first", "parallel"]


class ChannelAttention(Refine):
    """Channels weighted by a gate computed from their global averages and maxima; the first half of CBAM.

        M = sigmoid(MLP(mean_{H,W} x) + MLP(max_{H,W} x)),   MLP(s) = W2 relu(W1 s + b1) + b2      (B, C, 1, 1)
        y = x * M

    arXiv 1807.06521, equation 4: one MLP with m = floor(C / reduction) hidden units reads both descriptors. The biases
    are those of the authors' released networks (assumption A21). Of equal maxima the first gets the gradient.

    It compiles and exports: poolings, small convolutions and a product.

    Parameters: 2 C m + m + C. Cost: 4 C m multiply-accumulates (2 C m with one pooling), one pass over the map for each
    pooling and one for the product.

    Place: on the residual branch of a block behind its last norm, before the addition.

    Args:
        channels: Number of channels C of the map, at least 1.
        reduction: Divisor r of the hidden width m = floor(C / r), from 1 to C. The paper takes 16.
        pooling: Descriptors the MLP reads: `avg_max` (the paper), or only `avg` or only `max` over positions.
    """

    def __init__(self, channels: int, reduction: int = 16, pooling: ChannelPooling = "avg_max") -> None:
        super().__init__(channels)
        check_choice("pooling", pooling, get_args(ChannelPooling))
        width = bottleneck_channels(channels, reduction)
        self.pooling: ChannelPooling = pooling
        self.fc1 = nn.Conv2d(channels, width, 1)
        self.fc2 = nn.Conv2d(width, channels, 1)
        for layer in (self.fc1, self.fc2):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def gate(self, x: Tensor) -> Tensor:
        """Weights of the channels of `x` (B, C, H, W), as (B, C, 1, 1)."""
        pools = {"avg": global_mean, "max": global_max}
        descriptors = [pool(x) for name, pool in pools.items() if name in self.pooling]
        descriptor = torch.cat(descriptors, 2)  # (B, C, 2, 1): the shared MLP reads both in one call
        scores = self.fc2(F.relu(self.fc1(descriptor)))
        weights = torch.sigmoid(scores.sum(2, keepdim=True))
        if self.recording:
            self.record("channel", weights)
        return weights

    def forward(self, x: Tensor) -> Tensor:
        """Weights the channels of `x` (B, C, H, W)."""
        return gated(x, self.gate(x))


class CBAM(Refine):
    """Channel attention followed by spatial attention.

        x' = x * M_c(x),   M_c = sigmoid(MLP(mean_{H,W} x) + MLP(max_{H,W} x))          (B, C, 1, 1)
        y = x' * M_s(x'),  M_s = sigmoid(BN(conv_{k x k}([max_C x'; mean_C x'])))       (B, 1, H, W)

    arXiv 1807.06521, equations 2 to 5. There is no residual connection inside: the module belongs on the residual
    branch of a block, before the addition. `spatial_first` swaps the two steps; `parallel`, which the paper compares
    without an equation, is read as y = x * M_c(x) * M_s(x).

    It compiles and exports: poolings, convolutions and products.

    Parameters: 2 C m + m + C + 2 k^2 + 2 with m = floor(C / reduction) and the default poolings. Cost: 4 C m +
    2 k^2 H W multiply-accumulates, and six passes over the map; memory of two maps.

    Place: on the residual branch of a block behind its last norm, before the addition.

    Args:
        channels: Number of channels C of the map, at least 1.
        reduction: Divisor r of the channel MLP's hidden width m = floor(C / r), from 1 to C. The paper takes 16.
        kernel_size: Side k of the spatial convolution in cells of the map, odd. The paper takes 7.
        order: `channel_first` (the paper), `spatial_first`, or `parallel` (both gates read the unrefined map).
        channel_pooling: Descriptors of a channel: `avg_max` (the paper), or only `avg` or only `max` over positions.
        spatial_pooling: Descriptors of a position: `avg_max` (the paper), only `avg` or only `max` over channels, or
            `conv`, one that a 1x1 convolution learns.
        spatial_norm: Whether a batch normalisation follows the spatial convolution, as in the authors' code.
        spatial_bias: Whether the spatial convolutions have biases.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        kernel_size: int = 7,
        order: Order = "channel_first",
        channel_pooling: ChannelPooling = "avg_max",
        spatial_pooling: SpatialPooling = "avg_max",
        spatial_norm: bool = True,
        spatial_bias: bool = False,
    ) -> None:
        super().__init__(channels)
        check_choice("order", order, get_args(Order))
        self.order: Order = order
        self.channel = ChannelAttention(channels, reduction, channel_pooling)
        self.spatial = SpatialAttention(channels, kernel_size, spatial_pooling, spatial_norm, spatial_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Weights the channels and positions of `x` (B, C, H, W)."""
        if self.order == "channel_first":
            refined: Tensor = self.spatial(self.channel(x))
        elif self.order == "spatial_first":
            refined = self.channel(self.spatial(x))
        else:
            refined = gated(x, self.channel.gate(x), self.spatial.gate(x))
        return refined
