"""Halo attention (Vaswani et al., CVPR 2021, arXiv 2103.12731)."""

from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Mixer, check_at_least, check_choice
from attention.functional.layout import cell_means
from attention.functional.relative import (
    Implementation,
    RelativeTables,
    Scaling,
    Windows,
    check_heads,
    relative_attention,
    relative_attention_with_weights,
)
from attention.positions import InputPositions

Layout = Literal["paper", "timm"]
Border = Literal["mask", "zero"]
Subsampling = Literal["queries", "average"]
Positions = Literal["relative", "absolute", "none"]


class HaloAttention(Mixer):
    """Attention of every block of the map to the block and a halo of cells around it.

        q = W_q x                                       (B, heads d, H', W'), the top left cell of each stride x stride
        k, v = W_k x, W_v x                             (B, heads d, H, W), (B, heads e, H, W)
        y_ij = sum_ab softmax_ab(<q_ij, k_ab> + <q_ij, [r_{a-i}; s_{b-j}]>) v_ab        (B, heads e, H', W')

    (a, b) runs over the (block + 2 halo)^2 cells around the block of (i, j); all queries of a block see one window.
    arXiv 2103.12731, appendix A: the tables r and s hold d / 2 numbers for each of 2 (block + halo) - 1 offsets and are
    shared by heads; no output projection, no bias. The paper writes no factor before the logits, so there is none by
    default (assumption A8). With block = 1 this is attention to the square window around every cell, with halo = 0 and
    a block as large as the map global attention.

    Maps are cut into blocks from their top left corner, and the last blocks may stick out. Cells outside the map are
    masked by default (assumption A7). With `zero` they are keys and values of zero whose relative logits stay in the
    softmax: the convention of timm, which its weights need. Neither depends on how a map is padded inside: `mask` never
    sees what is outside, and `zero` gives what extending the map by zeros would (without bias).

    `layout="timm"` loads the weights of timm's `HaloAttn` by name and gives its numbers. There both tables have d
    numbers for each of 2 (block + 2 halo) - 1 offsets, some of which never occur; only the product of queries and keys
    is divided by sqrt(d); and strided queries count their offsets as if they were neighbours. timm refuses maps that
    are no multiple of the block; here they count as extended by zeros.

    Other `positions` are the paper's ablation: `none`, and `absolute`, whose factorised embeddings are read as sines
    that are added to the input of all projections (assumption A57), see `attention.positions`. Neither has tables.

    On a CPU neither logits nor windows of the whole map are ever stored, eager or under `torch.compile`, which takes
    the attention as one operator. Exports consist of standard operators, which do store them; they hold for maps of
    more than one block in either direction, so declare larger sizes only.

    Parameters: 2 C_in K + C_in C_out + (2 (block + halo) - 1) d with K = heads d key channels; timm's tables have
    2 (2 (block + 2 halo) - 1) d, other positions none. Cost: H W C_in (K + C_out) + H' W' K (C_in + entries) + H' W'
    (block + 2 halo)^2 (K + C_out) multiply-accumulates, where entries counts the offsets of both tables; one pass over
    the map for the projections, and one over queries and result and (1 + 2 halo / block)^2 over keys and values.

    Place: instead of the 3 x 3 convolution of a bottleneck block, followed by that convolution's normalisation.

    Args:
        in_channels: Number of channels C_in of the input map, at least 1.
        out_channels: Number of channels C_out of the output map, a multiple of heads.
        stride: Distance of the queries in cells, at least 1; divides the block.
        heads: Number of heads, at least 1.
        block: Side of a block in cells, at least 1.
        halo: Cells around a block that its queries see as well, at least 0.
        key_channels: Channels K of the queries, and of the keys, a multiple of heads, in the paper's layout of 2 heads.
            By default C_in (the paper), in the layout of timm C_out.
        layout: Tables of the `paper`, or those of `timm`.
        border: Cells outside the map: `mask` leaves them out, `zero` counts them as zero keys and values. By default
            `mask`, in the layout of timm `zero`.
        scaling: What is divided by sqrt(d): `none` of the logits, their `content` <q, k>, or `both` terms. By default
            `none`, in the layout of timm `content`.
        subsampling: How a stride is made: fewer `queries` (the paper), or the `average` of stride x stride results, as
            timm does where the stride does not divide the block.
        bias: Whether the projections have biases. The paper has none.
        implementation: `auto`, or one of `chunks`, `fused` and `softmax`, which compute the same; see
            `attention.functional.relative`.
        positions: `relative` tables (the paper), `absolute` sines, or `none`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        heads: int = 8,
        block: int = 8,
        halo: int = 3,
        key_channels: int | None = None,
        layout: Layout = "paper",
        border: Border | None = None,
        scaling: Scaling | None = None,
        subsampling: Subsampling = "queries",
        bias: bool = False,
        implementation: Implementation = "auto",
        positions: Positions = "relative",
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        check_at_least(1, heads=heads, block=block)
        check_at_least(0, halo=halo)
        check_choice("layout", layout, get_args(Layout))
        check_choice("subsampling", subsampling, get_args(Subsampling))
        check_choice("implementation", implementation, get_args(Implementation))
        check_choice("positions", positions, get_args(Positions))
        timm = layout == "timm"
        if border is None:
            border = "zero" if timm else "mask"
        if scaling is None:
            scaling = "content" if timm else "none"
        check_choice("border", border, get_args(Border))
        check_choice("scaling", scaling, get_args(Scaling))
        if key_channels is None:
            key_channels = out_channels if timm else in_channels
        check_heads(heads, out_channels=out_channels)
        halves = positions == "relative" and not timm  # of a query, one for rows and one for columns
        check_heads(2 * heads if halves else heads, key_channels=key_channels)
        distance = stride if subsampling == "queries" else 1
        if block % distance:
            raise ValueError(f"stride={stride} does not divide block={block}; give a multiple or subsampling='average'")
        self.heads, self.halo, self.head_channels = heads, halo, key_channels // heads
        self.layout: Layout = layout
        self.scaling: Scaling = scaling
        self.implementation: Implementation = implementation
        self.windows = Windows((block, block), halo, distance, 1 if timm else distance, border == "mask")
        self.positions = InputPositions(in_channels, "sinusoidal" if positions == "absolute" else "none")
        self.q = nn.Conv2d(in_channels, key_channels, 1, distance, bias=bias)
        self.kv = nn.Conv2d(in_channels, key_channels + out_channels, 1, bias=bias)  # per head first k, then v
        entries = 2 * (block + 2 * halo) - 1 if timm else 2 * (block + halo) - 1
        channels = self.head_channels if timm else self.head_channels // 2
        self.pos_embed = None
        if positions == "relative":
            self.pos_embed = RelativeTables(entries, entries, channels, self.head_channels**-0.5)
        for layer in (self.q, self.kv):
            nn.init.trunc_normal_(layer.weight, std=in_channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes `x` (B, C_in, H, W) into (B, C_out, ceil(H / stride), ceil(W / stride))."""
        x = self.positions(x)
        queries, keys_values = self.q(x), self.kv(x)
        rows, columns = self._vectors()
        scale = 1.0 if self.scaling == "none" else self.head_channels**-0.5
        if self.recording:
            mixed, weights, key_rows, key_columns = relative_attention_with_weights(
                queries, keys_values, rows, columns, self.heads, scale, self.windows
            )
            self.record("key", weights, key_rows, key_columns)
        else:
            mixed = relative_attention(
                queries, keys_values, rows, columns, self.heads, scale, self.windows, self.implementation
            )
        return cell_means(mixed, self.stride // self.windows.stride)

    def _vectors(self) -> tuple[Tensor, Tensor]:
        """Vectors by row and column offset from the smallest one that occurs."""
        if self.pos_embed is None:
            nothing = self.q.weight.new_zeros(self.windows.entries[0], self.head_channels)
            return nothing, nothing
        rows: Tensor = self.pos_embed.height_rel
        columns: Tensor = self.pos_embed.width_rel
        (block, _), stride, step = self.windows.block, self.windows.stride, self.windows.step
        if self.layout == "timm":
            # Entry a - i + window - 1 for the a-th cell of the window and the i-th query, i < block / stride.
            first = block + 2 * self.halo - block // stride
        else:
            # Entry a - stride i + block - 1, with i < block / stride.
            first = step - 1
            half = self.head_channels // 2
            rows, columns = F.pad(rows, (0, half), value=0.0), F.pad(columns, (half, 0), value=0.0)
        entries = self.windows.entries[0]
        rows, columns = rows[first : first + entries], columns[first : first + entries]
        if self.scaling == "both":
            rows, columns = rows * self.head_channels**-0.5, columns * self.head_channels**-0.5
        return rows, columns
