"""ECA, efficient channel attention (Wang et al., CVPR 2020, arXiv 1910.03151)."""

import torch
from torch import Tensor, nn

from attention.base import Refine, check_odd
from attention.pooling import gated, global_mean


class EfficientChannelAttention(Refine):
    """Channels weighted by a gate that a 1-D convolution along the channels computes from their global averages.

        s = mean_{H,W} x                        (B, C, 1, 1)
        y = x * sigmoid(conv_k(s))              k weights slide along the C averages, zeros beyond both ends

    arXiv 1910.03151, equations 5 and 9. The convolution has no bias. The kernel size follows the number of channels by
    equation 12 with gamma = 2 and b = 1: k is t = floor(log2(C) / 2 + 1 / 2) if that is odd and t + 1 otherwise, which
    is 5 for 256 channels. Below 8 channels that is a single weight, which sees no neighbour; timm takes at least 3,
    which is `minimum: 3` here (assumption A44).

    It compiles and exports: a mean, a small convolution and a product.

    Parameters: k. Cost: k C multiply-accumulates, one pass over the map for the mean and one for the product.

    Place: on the residual branch of a block behind its last norm, before the addition.

    Args:
        channels: Number of channels C of the map, at least 1.
        kernel_size: Channels k that one weight depends on, odd; none derives it from C.
        minimum: Least k that is derived from C, odd: 1 as in the equation, 3 as in timm.
    """

    def __init__(self, channels: int, kernel_size: int | None = None, minimum: int = 1) -> None:
        super().__init__(channels)
        check_odd(minimum=minimum)
        if kernel_size is None:  # floor((log2 C + 1) / 2), even ones made odd upwards
            kernel_size = max(channels.bit_length() // 2 // 2 * 2 + 1, minimum)
        check_odd(kernel_size=kernel_size)
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Weights the channels of `x` (B, C, H, W)."""
        averages = global_mean(x).flatten(1).unsqueeze(1)  # (B, 1, C)
        weights = torch.sigmoid(self.conv(averages)).transpose(1, 2).unsqueeze(3)  # (B, C, 1, 1)
        if self.recording:
            self.record("channel", weights)
        return gated(x, weights)
