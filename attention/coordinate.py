"""Coordinate attention (Hou, Zhou and Feng, CVPR 2021, arXiv 2103.02907)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Refine, check_at_least, check_choice
from attention.pooling import gated, mean

Directions = Literal["both", "height", "width"]


class CoordinateAttention(Refine):
    """Channels weighted by one gate per row and one gate per column.

        z_h = mean_W x  (B, C, H),   z_w = mean_H x  (B, C, W)
        f = hswish(BN(W1 [z_h; z_w] + b1))              (B, m, H + W),   m = max(min_channels, floor(C / reduction))
        y = x * sigmoid(W_h f_h + b_h) * sigmoid(W_w f_w + b_w)         gates (B, C, H, 1) and (B, C, 1, W)

    arXiv 2103.02907, equations 4 to 8. With one direction only that direction is pooled, embedded and gated (the
    paper's ablation); `height` gives every row its own weight and `width` every column.

    In training the batch normalisation shares its statistics between the H + W positions of both directions, so results
    depend slightly on the size of the map, as they do in the authors' code.

    It compiles and exports: means, small convolutions and products.

    Parameters: 3 C m + 2 C + 3 m, one direction 2 C m + C + 3 m. Cost: 2 C m (H + W) multiply-accumulates (one
    direction 2 C m H or 2 C m W), two passes over the map for the means and two for the products; memory of two
    maps.

    Place: on the expanded map of an inverted residual behind the depthwise convolution, in other blocks on the residual
    branch before the addition.

    Convolutions start normally distributed with variance 2 / C_out, biases at zero, as in the authors' code.

    Args:
        channels: Number of channels C of the map, at least 1.
        reduction: Divisor r of the hidden width m = max(min_channels, floor(C / r)), at least 1. The paper takes 32.
        min_channels: Lower bound of the hidden width m, at least 1.
        directions: Gates to apply: `both` (the paper), only `height` (one weight per row) or only `width` (per column).
    """

    def __init__(
        self, channels: int, reduction: int = 32, min_channels: int = 8, directions: Directions = "both"
    ) -> None:
        super().__init__(channels)
        check_at_least(1, reduction=reduction, min_channels=min_channels)
        check_choice("directions", directions, get_args(Directions))
        width = max(min_channels, channels // reduction)
        self.directions: Directions = directions
        self.conv1 = nn.Conv2d(channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        if directions != "width":
            self.conv_h = nn.Conv2d(width, channels, 1)
        if directions != "height":
            self.conv_w = nn.Conv2d(width, channels, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Weights the channels of `x` (B, C, H, W) at every row and column."""
        gates: dict[str, Tensor] = {}
        if self.directions == "height":
            gates["row"] = self._row_gate(self._embed(mean(x, 3)))
        elif self.directions == "width":
            gates["column"] = self._column_gate(self._embed(mean(x, 2).transpose(2, 3)))
        else:
            means = torch.cat([mean(x, 3), mean(x, 2).transpose(2, 3)], 2)
            embedded = self._embed(means)  # (B, m, H + W, 1)
            of_rows, of_columns = embedded.split([x.shape[2], x.shape[3]], 2)
            gates["row"], gates["column"] = self._row_gate(of_rows), self._column_gate(of_columns)
        if self.recording:
            for name, gate in gates.items():
                self.record(name, gate)
        return gated(x, *gates.values())

    def _embed(self, means: Tensor) -> Tensor:
        """Hidden representation (B, m, N, 1) of the means (B, C, N, 1) of N rows and columns."""
        return F.hardswish(self.bn1(self.conv1(means)))

    def _row_gate(self, embedded: Tensor) -> Tensor:
        """Weights (B, C, H, 1) from the rows' representation (B, m, H, 1)."""
        return torch.sigmoid(self.conv_h(embedded))

    def _column_gate(self, embedded: Tensor) -> Tensor:
        """Weights (B, C, 1, W) from the columns' representation (B, m, W, 1)."""
        return torch.sigmoid(self.conv_w(embedded)).transpose(2, 3)
