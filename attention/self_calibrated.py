"""Self-calibrated convolution of SCNet (Liu et al., CVPR 2020)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Mixer, check_at_least, check_choice
from attention.functional.layout import cell_means

Upsampling = Literal["nearest", "bilinear"]


class SelfCalibratedConv2d(Mixer):
    """A convolution half of whose channels pass a gate that is computed at a coarser resolution.

        x = [x1; x2]                                            (B, C_in / 2, H, W) each
        g = sigmoid(x1 + up_r(BN(K2 * mean_{r x r}(x1))))       (B, C_in / 2, H, W)
        y1 = K4 * (BN(K3 * x1) g),   y2 = K1 * x2               (B, C_out / 2, H', W') each
        y = [y1; y2]                                            (B, C_out, H', W')

    Liu et al., "Improving convolutional networks with self-calibrated convolutions", section 3.2; * is a 3 x 3
    convolution without bias, K1 and K4 have the stride. In the authors' code a batch normalisation follows each of
    them; those of K1 and K4 are the one of the host behind y. The text interpolates bilinearly, the code takes the
    nearest cell; where r does not divide a side, the last cells cover what is left of them (assumption A48).

    Compiles and exports: convolutions, a mean of cells and an interpolation.

    Parameters: 9 C_in C_out / 2 + 9 C_in^2 / 2 + 2 C_in, at C_in = C_out = C the 9 C^2 of a convolution and 2 C. Cost:
    9 / 2 C_in C_out H' W' + 9 / 4 C_in^2 H W (1 + 1 / r^2) multiply-accumulates; memory of three half maps.

    Place: instead of the 3 x 3 convolution of a bottleneck; its normalisation and activation follow.

    Args:
        in_channels: Number of channels C_in of the input map, even.
        out_channels: Number of channels C_out of the output map, even.
        stride: Subsampling factor of the output map in both directions, at least 1.
        pooling: Side r of the cells that the gate is computed from, at least 1. The paper takes 4.
        upsampling: How cells become positions again: the `nearest` (the code), or `bilinear` (the text).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        pooling: int = 4,
        upsampling: Upsampling = "nearest",
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        check_at_least(1, pooling=pooling)
        check_choice("upsampling", upsampling, get_args(Upsampling))
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % 2:
                raise ValueError(f"{name}={channels} has no halves; give an even number such as {channels + 1}")
        self.pooling = pooling
        self.upsampling: Upsampling = upsampling
        half, out = in_channels // 2, out_channels // 2
        self.k1 = _convolution(half, out, stride)
        self.k2, self.bn2 = _convolution(half, half), nn.BatchNorm2d(half)
        self.k3, self.bn3 = _convolution(half, half), nn.BatchNorm2d(half)
        self.k4 = _convolution(half, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes `x` (B, C_in, H, W) into (B, C_out, ceil(H / stride), ceil(W / stride))."""
        calibrated, plain = x.chunk(2, 1)
        gate = torch.sigmoid(calibrated + self._upsampled(self.bn2(self.k2(cell_means(calibrated, self.pooling))), x))
        if self.recording:
            self.record("cell", gate)
        return torch.cat([self.k4(self.bn3(self.k3(calibrated)) * gate), self.k1(plain)], 1)

    def _upsampled(self, cells: Tensor, x: Tensor) -> Tensor:
        """Cells (B, C, ceil(H / r), ceil(W / r)) as the map (B, C, H, W) that `x` is."""
        if self.pooling == 1:
            return cells
        cells = F.interpolate(cells, scale_factor=self.pooling, mode=self.upsampling)
        if torch.compiler.is_exporting():  # exporters cannot prove that a slice would have the right size
            rows, columns = (torch.arange(size, device=x.device) for size in x.shape[2:])
            return cells.index_select(2, rows).index_select(3, columns)
        return cells[:, :, : x.shape[2], : x.shape[3]]


def _convolution(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
