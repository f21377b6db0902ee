"""Strip pooling (Hou et al., CVPR 2020, arXiv 2003.13328)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Refine, check_odd
from attention.pooling import gated, mean


class StripPooling(Refine):
    """Every position of every channel weighted by a gate from the means of its row and its column.

        r = BN(conv_{k x 1}(mean_W x))                      (B, C, H, 1)
        c = BN(conv_{1 x k}(mean_H x))                      (B, C, 1, W)
        y = x * sigmoid(W relu(r + c) + b)                  gate (B, C, H, W), W: (C, C)

    arXiv 2003.13328, section 3.1, the strip pooling module; the paper multiplies the input by the gate, which the
    released networks put on the map behind a bottleneck's 3 x 3 convolution. There, as here, the 1-D convolutions mix
    all channels and have no bias but a batch normalisation, and the last convolution has a bias (assumption A46).

    The 1-D convolutions see zeros beyond the ends. Compiles and exports: means, convolutions and a product.

    Parameters: (2 k + 1) C^2 + 5 C (7 C^2 + 5 C for k = 3). Cost: C^2 (H W + k (H + W)) multiply-accumulates, two
    passes over the map for the means and one for the product; memory of two maps.

    Place: on the residual branch of a block, behind its 3 x 3 convolution or before the addition.

    Args:
        channels: Number of channels C of the map, at least 1.
        kernel_size: Length k of the 1-D convolutions in rows and in columns, odd. The paper takes 3.
    """

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__(channels)
        check_odd(kernel_size=kernel_size)
        reach = kernel_size // 2
        self.conv_rows = nn.Conv2d(channels, channels, (kernel_size, 1), padding=(reach, 0), bias=False)
        self.bn_rows = nn.BatchNorm2d(channels)
        self.conv_columns = nn.Conv2d(channels, channels, (1, kernel_size), padding=(0, reach), bias=False)
        self.bn_columns = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Weights `x` (B, C, H, W)."""
        rows = self.bn_rows(self.conv_rows(mean(x, 3)))
        columns = self.bn_columns(self.conv_columns(mean(x, 2)))
        gate = torch.sigmoid(self.conv(F.relu(rows + columns)))
        if self.recording:
            self.record("cell", gate)
        return gated(x, gate)
