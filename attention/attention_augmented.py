"""Attention augmented convolution (Bello et al., ICCV 2019, arXiv 1904.09925)."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Mixer, check_at_least, check_choice
from attention.functional.relative import (
    Implementation,
    RelativeTables,
    Windows,
    join_heads,
    relative_attention,
    relative_attention_with_weights,
)
from attention.positions import InputPositions, Kind

Positions = Literal["relative", "sinusoidal", "coord_conv", "none"]
Rounding = Literal["nearest", "floor"]


class AttentionAugmentedConv2d(Mixer):
    """A convolution of which some output channels come from global attention with relative positions.

        x' = x, with a stride avgpool_{3x3}(x)          (B, C_in, H', W'), H' = ceil(H / stride)
        k, q, v = W_k x', W_q x' / sqrt(d), W_v x'      (B, heads d, H', W') twice, (B, d_v, H', W')
        O_ij = sum_ab softmax_ab(<q_ij, k_ab + r_{a-i} + s_{b-j}>) v_ab                 (B, d_v, H', W')
        y = [conv(x); W_O O]                            (B, C_out, H', W')

    arXiv 1904.09925, section 3, with the head-major order k, q, v of the listing in its appendix. d_k = heads d is
    kappa C_out and d_v is upsilon C_out, both rounded to multiples of heads, and d is at least `min_key_channels`: only
    so do the sizes of the published networks come out. No biases. With upsilon = 1 there is no convolution.

    With `pooled` (the paper's stage of 28 x 28 cells) the attention branch works at half the resolution: another 3 x 3
    average pool of stride 2 before, bilinear interpolation by 2 behind, cut to H' x W'. The paper does not say how
    borders count there; these are PyTorch's defaults, that is pools count the zeros around the map and interpolation is
    between the centres of cells (assumption A4).

    The tables r and s belong to a grid of cells. A smaller map takes their middle; on a larger one all offsets beyond a
    table take its last entry, as Shaw et al. (arXiv 1803.02155) clip theirs (assumption A5).

    Other `positions` are the paper's ablation: `none`; `sinusoidal`, sines that are added to x'; and `coord_conv`,
    coordinates beside x'. Where the input gets them is not said: here that of k, q and v alone, at the resolution of
    attention (assumption A50), see `attention.positions`.

    On a CPU the (H' W')^2 logits are never stored, eager or under `torch.compile`, which takes the attention as one
    operator. Exports consist of standard operators, which do store them.

    Parameters: C_in (2 d_k + d_v) + d_v^2 + (2 (rows + columns) - 2) d + kernel_size^2 C_in (C_out - d_v), where rows
    and columns are those of the grid; without relative positions those of r and s fall away, with `coord_conv` 3 (2 d_k
    + d_v) come in their place. Cost: H' W' (C_in (2 d_k + d_v) + d_v^2 + kernel_size^2 C_in (C_out - d_v))
    + (H' W')^2 (d_k + d_v) + H' W' d_k (2 (H' + W') - 2) multiply-accumulates, those of attention at a quarter of the
    cells when pooled; two passes over the map, one over keys and values for every few rows of queries, and the
    concatenation.

    Place: instead of the 3 x 3 convolution of a residual block, in the last three stages.

    Args:
        in_channels: Number of channels C_in of the input map, at least 1.
        out_channels: Number of channels C_out of the output map, at least 1.
        stride: Distance of the output's cells in cells of the input, at least 1.
        kernel_size: Side of the convolution in cells, odd.
        heads: Number of heads, at least 1.
        kappa: Key channels d_k as a part of C_out, positive.
        upsilon: Attention channels d_v as a part of C_out, above 0 and at most 1.
        min_key_channels: Least number of key channels d of a head, at least 1.
        grid: Rows and columns of the map, behind stride and pool, that the tables are made for, at least 1 each.
        pooled: Whether attention works at half the resolution.
        positions: `relative` terms r and s of the logits (the paper), `sinusoidal` or `coord_conv` positions of the
            input, or `none`, with which attention knows no positions.
        rounding: Multiple of heads that d_k and d_v become: the `nearest` or the `floor`.
        implementation: `auto`, or one of `chunks`, `fused` and `softmax`, which compute the same; see
            `attention.functional.relative`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        kernel_size: int = 3,
        heads: int = 8,
        kappa: float = 0.2,
        upsilon: float = 0.1,
        min_key_channels: int = 20,
        grid: tuple[int, int] = (14, 14),
        pooled: bool = False,
        positions: Positions = "relative",
        rounding: Rounding = "nearest",
        implementation: Implementation = "auto",
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        check_at_least(1, kernel_size=kernel_size, heads=heads, min_key_channels=min_key_channels, grid=min(grid))
        check_choice("positions", positions, get_args(Positions))
        check_choice("rounding", rounding, get_args(Rounding))
        check_choice("implementation", implementation, get_args(Implementation))
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size} is even; give an odd number such as {kernel_size + 1}")
        if kappa <= 0:
            raise ValueError(f"kappa={kappa} is no part of the channels; give a number above 0")
        if not 0 < upsilon <= 1:
            raise ValueError(f"upsilon={upsilon} is no part of the channels; give a number above 0 and at most 1")
        self.heads = heads
        self.key_channels = max(_multiple(kappa * out_channels, heads, rounding), min_key_channels * heads)
        self.value_channels = _multiple(upsilon * out_channels, heads, rounding)
        if not 0 < self.value_channels <= out_channels:
            raise ValueError(
                f"upsilon={upsilon} of out_channels={out_channels} is {self.value_channels} channels in {heads} heads; "
                f"give fewer heads or upsilon from {heads / out_channels:.3g} to 1"
            )
        self.pooled = pooled
        self.implementation: Implementation = implementation
        self.conv: nn.Conv2d | None = None
        if self.value_channels < out_channels:
            channels = out_channels - self.value_channels
            self.conv = nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2, bias=False)
        named: Kind = "none" if positions == "relative" else positions
        self.positions = InputPositions(in_channels, named)
        self.kqv = nn.Conv2d(self.positions.out_channels, 2 * self.key_channels + self.value_channels, 1, bias=False)
        self.output = nn.Conv2d(self.value_channels, self.value_channels, 1, bias=False)
        self.relative: RelativeTables | None = None
        if positions == "relative":
            channels = self.key_channels // heads
            self.relative = RelativeTables(2 * grid[0] - 1, 2 * grid[1] - 1, channels, channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes `x` (B, C_in, H, W) into (B, C_out, ceil(H / stride), ceil(W / stride))."""
        attended = self._attend(x)
        if self.conv is None:
            return attended
        return torch.cat([self.conv(x), attended], 1)

    def _attend(self, x: Tensor) -> Tensor:
        """The channels that come from attention, (B, d_v, H', W')."""
        distance = self.stride
        if self.stride > 1:
            x = F.avg_pool2d(x, 3, self.stride, 1)
        rows_of_output, columns_of_output = x.shape[2:]
        if self.pooled:
            distance *= 2
            x = F.avg_pool2d(x, 3, 2, 1)
        height, width = x.shape[2:]
        parts = [self.key_channels, self.key_channels, self.value_channels]
        keys, queries, values = self.kqv(self.positions(x)).split(parts, 1)
        queries = queries * (self.key_channels // self.heads) ** -0.5
        if self.relative is None:
            rows, columns = (
                queries.new_zeros(2 * size - 1, self.key_channels // self.heads) for size in (height, width)
            )
        else:
            rows, columns = self.relative.for_grid(height, width)
        keys_values = join_heads(keys, values, self.heads)
        windows = Windows((height, width), whole=True)
        if self.recording:
            mixed, weights, key_rows, key_columns = relative_attention_with_weights(
                queries, keys_values, rows, columns, self.heads, 1.0, windows
            )
            self.record("key", weights, distance * key_rows, distance * key_columns)  # the centres of what was pooled
        else:
            mixed = relative_attention(
                queries, keys_values, rows, columns, self.heads, 1.0, windows, self.implementation
            )
        attended: Tensor = self.output(mixed)
        if not self.pooled:
            return attended
        attended = F.interpolate(attended, scale_factor=2, mode="bilinear")
        if torch.compiler.is_exporting():  # exporters cannot prove that a slice would have the right size
            of_rows, of_columns = (torch.arange(size, device=x.device) for size in (rows_of_output, columns_of_output))
            return attended.index_select(2, of_rows).index_select(3, of_columns)
        return attended[:, :, :rows_of_output, :columns_of_output]


def _multiple(channels: float, heads: int, rounding: Rounding) -> int:
    """Number of channels as a multiple of heads; halves are rounded up."""
    return math.floor(channels / heads + (0.5 if rounding == "nearest" else 1e-9)) * heads
