"""Triplet attention (Misra et al., WACV 2021, arXiv 2010.03045)."""

import torch
from torch import Tensor, nn

from attention.base import Refine, check_odd
from attention.pooling import gated, maximum, mean


class TripletAttention(Refine):
    """The mean of three gates, each over two of the axes and computed from what was pooled over the third.

        Z_a(x) = [max_a x; mean_a x]                            two planes, without axis a
        M_a = sigmoid(BN_a(conv_{k x k}(Z_a(x))))               (B, C, 1, W), (B, C, H, 1), (B, 1, H, W) for a = H, W, C
        y = x * (M_H + M_W + M_C) / 3                           without the spatial branch: x * (M_H + M_W) / 2

    arXiv 2010.03045, equations 3 to 5: the branches of the paper rotate the map and back, which only names its axes
    differently; kernels lie as there, in (C, W), (H, C) and (H, W). The branch M_C is CBAM's spatial attention. The
    convolutions have no bias and see zeros beyond the borders, those of the channels too; the norms have a momentum of
    0.01. Only the norm of the spatial branch starts with a weight of zero, its gate with one half (assumption A39). Of
    equal maxima the first gets the gradient.

    It compiles and exports: poolings, convolutions and a product.

    Parameters: 3 (2 k^2 + 2), 300 for k = 7; without the spatial branch 200. Independent of C. Cost: 2 k^2 (C W + H C +
    H W) multiply-accumulates, six passes over the map for the poolings and one for the product; memory of two maps.

    Place: on the residual branch of a block behind its last norm, before the addition.

    Args:
        channels: Number of channels C of the map, at least 1. Parameters do not depend on it.
        kernel_size: Side k of the convolutions in cells, odd. The paper takes 7.
        spatial: Whether there is the third branch, over rows and columns.
    """

    def __init__(self, channels: int, kernel_size: int = 7, spatial: bool = True) -> None:
        super().__init__(channels)
        check_odd(kernel_size=kernel_size)
        self.channel_width = _branch(kernel_size)  # pooled over rows
        self.height_channel = _branch(kernel_size)  # pooled over columns
        self.height_width: nn.Sequential | None = None
        if spatial:
            self.height_width = _branch(kernel_size, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Weights every cell of `x` (B, C, H, W)."""
        gates = {"column": _gate(self.channel_width, x, 2), "row": _gate(self.height_channel, x, 3)}
        weights = gates["column"] + gates["row"]
        if self.height_width is not None:
            gates["position"] = _gate(self.height_width, x, 1)
            weights = weights + gates["position"]
        if self.recording:
            for name, gate in gates.items():
                self.record(name, gate)
        return gated(x, weights / len(gates))


def _branch(kernel_size: int, start: float = 1) -> nn.Sequential:
    """Convolution and norm of a gate; the norm's weight starts at `start`."""
    conv, norm = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False), nn.BatchNorm2d(1, momentum=0.01)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    nn.init.constant_(norm.weight, start)
    return nn.Sequential(conv, norm)


def _gate(branch: nn.Sequential, x: Tensor, axis: int) -> Tensor:
    """Weights of `x` (B, C, H, W) that are the same all along an axis."""
    planes = torch.cat([maximum(x, axis), mean(x, axis)], axis).transpose(1, axis)
    return torch.sigmoid(branch(planes)).transpose(1, axis)
