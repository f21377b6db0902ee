"""Bottleneck attention, the MHSA of BoTNet (Srinivas et al., CVPR 2021, arXiv 2101.11605)."""

from typing import get_args

from torch import Tensor, nn

from attention.base import Mixer, check_at_least, check_choice
from attention.functional.layout import cell_means
from attention.functional.relative import (
    Implementation,
    RelativeTables,
    Scaling,
    Windows,
    check_heads,
    join_heads,
    relative_attention,
    relative_attention_with_weights,
)


class BottleneckAttention(Mixer):
    """Global attention with relative positions, averaged to the stride.

        q, k, v = W_q x, W_k x, W_v x                   (B, heads d, H, W) twice, (B, heads e, H, W)
        l = <q_ij, k_ab> / sqrt(d) + <q_ij, r_{a-i} + s_{b-j}>
        z_ij = sum_ab softmax_ab(l) v_ab                (B, heads e, H, W)
        y = mean of z over stride x stride cells        (B, heads e, ceil(H / stride), ceil(W / stride))

    arXiv 2101.11605, figure 4: four heads, tables r and s shared by heads, no output projection. The figure has no
    factor; the default is the one of timm, which divides <q, k> alone (assumption A6). Weights of timm's
    `BottleneckAttn` load by name and give its numbers on maps of its grid.

    The tables belong to a grid of cells. A smaller map takes their middle; on a larger one all offsets beyond a table
    take its last entry, as Shaw et al. (arXiv 1803.02155) clip theirs (assumption A5). Where the stride does not divide
    the map, the last means are over what is left.

    On a CPU the (H W)^2 logits are never stored, eager or under `torch.compile`, which takes the attention as one
    operator. Exports consist of standard operators, which do store them.

    Parameters: C_in (2 K + C_out) + (2 (rows + columns) - 2) d with K = heads d key channels and the grid's rows and
    columns. Cost: H W C_in (2 K + C_out) + (H W)^2 (K + C_out) + H W K (2 (H + W) - 2) multiply-accumulates; one pass
    over the map for the projections, and one over keys and values for every few rows of queries.

    Place: instead of the 3 x 3 convolution of a bottleneck block on a coarse map (the last stage of a ResNet).

    Args:
        in_channels: Number of channels C_in of the input map, at least 1.
        out_channels: Number of channels C_out of the output map, a multiple of heads.
        stride: Side of the cells that are averaged behind the attention, at least 1.
        heads: Number of heads, at least 1.
        grid: Rows and columns of the map that the tables are made for, at least 1 each.
        key_channels: Channels K of the queries, and of the keys, a multiple of heads; by default C_out.
        scaling: What is divided by sqrt(d): `none` of the logits, their `content` <q, k>, or `both` terms.
        bias: Whether the projections have biases. The paper has none.
        implementation: `auto`, or one of `chunks`, `fused` and `softmax`, which compute the same; see
            `attention.functional.relative`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        heads: int = 4,
        grid: tuple[int, int] = (14, 14),
        key_channels: int | None = None,
        scaling: Scaling = "content",
        bias: bool = False,
        implementation: Implementation = "auto",
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        check_at_least(1, heads=heads, grid=min(grid))
        check_choice("scaling", scaling, get_args(Scaling))
        check_choice("implementation", implementation, get_args(Implementation))
        key_channels = out_channels if key_channels is None else key_channels
        check_heads(heads, out_channels=out_channels, key_channels=key_channels)
        self.heads, self.head_channels = heads, key_channels // heads
        self.scaling: Scaling = scaling
        self.implementation: Implementation = implementation
        self.qkv = nn.Conv2d(in_channels, 2 * key_channels + out_channels, 1, bias=bias)  # all q, all k, all v
        self.pos_embed = RelativeTables(2 * grid[0] - 1, 2 * grid[1] - 1, self.head_channels, self.head_channels**-0.5)
        nn.init.trunc_normal_(self.qkv.weight, std=in_channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes `x` (B, C_in, H, W) into (B, C_out, ceil(H / stride), ceil(W / stride))."""
        key_channels = self.heads * self.head_channels
        queries, keys, values = self.qkv(x).split([key_channels, key_channels, self.out_channels], 1)
        rows, columns = self.pos_embed.for_grid(x.shape[2], x.shape[3])
        factor = self.head_channels**-0.5
        if self.scaling == "both":
            rows, columns = rows * factor, columns * factor
        scale = 1.0 if self.scaling == "none" else factor
        keys_values = join_heads(keys, values, self.heads)
        windows = Windows((x.shape[2], x.shape[3]), whole=True)
        if self.recording:
            mixed, weights, key_rows, key_columns = relative_attention_with_weights(
                queries, keys_values, rows, columns, self.heads, scale, windows
            )
            self.record("key", weights, key_rows, key_columns)
        else:
            mixed = relative_attention(
                queries, keys_values, rows, columns, self.heads, scale, windows, self.implementation
            )
        return cell_means(mixed, self.stride)
