"""Stand-alone self-attention (Ramachandran, Parmar et al., NeurIPS 2019, arXiv 1906.05909)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from attention.base import Mixer, check_at_least, check_choice, check_divides, check_odd
from attention.functional.layout import cell_means, channels_last, in_format_of
from attention.functional.logits import at_least_float32, autocast_off
from attention.functional.neighbourhood import inside_map, neighbourhood_products, neighbourhood_rows, neighbourhood_sum
from attention.positions import InputPositions, Kind

Positions = Literal["relative", "absolute", "coord_conv", "none"]
Border = Literal["mask", "zero"]


class StandAloneSelfAttention(Mixer):
    """Every position attends to the k x k positions around it, with relative embeddings of rows and columns.

        q, k, v = W_Q x, W_K x, W_V x                                             (B, heads, D, H, W) each
        w[p, (a, b)] = softmax_{a, b}(q_p . k_{p+(a,b)} + q_p . [row_a; col_b])   row, col: D / 2 channels, k entries
        y_p = sum_{a, b} w[p, (a, b)] v_{p+(a,b)}                                 (B, C_out, H, W)

    arXiv 1906.05909, equations 2 and 3. The projections are dense, which the paper's parameter counts demand although
    its text describes grouped ones; there is no factor D^-1/2 and no output projection, because no equation has one
    (assumption A2). With stride s a mean over s x s cells follows (the last ones of odd maps cover what is left of
    them).

    Other `positions` are the paper's ablation: `none`; `absolute`, whose sines are added to the input of all three
    projections; and `coord_conv`, which puts coordinates beside it (assumption A50), see `attention.positions`.

    The paper says nothing of borders (assumption A1): `mask` leaves cells outside the map out, `zero` gives them key
    and value zero, so that they take part by their relative embedding alone.

    Nothing of size C k^2 H W is stored. Exported models carry k^2 shifted copies of keys and values instead.

    Parameters: 3 C_in C_out + C_out k, with `shared_tables` C_out k / heads in place of C_out k; without relative
    positions 3 C_in C_out, with `coord_conv` 9 C_out more; without `content` two projections in place of three. Cost: 3
    C_in C_out + 2 k^2 C_out + C_out k multiply-accumulates per position of the input; linear in H W.

    Place: instead of the 3 x 3 convolution of a bottleneck block.

    Args:
        in_channels: Number of channels C_in of the input map, at least 1.
        out_channels: Number of channels C_out of the output map, a multiple of 2 `heads`.
        stride: Subsampling factor of the output map in both directions, at least 1.
        heads: Number of heads, each with D = C_out / heads channels. The paper takes 8.
        kernel_size: Side k of the neighbourhood in cells, odd. The paper takes 7.
        positions: `relative` embeddings (the paper), `absolute` sines, coordinates (`coord_conv`), or `none`.
        shared_tables: Whether all heads have the same relative embeddings; each its own fits the paper's counts best.
        border: `mask` lets queries see cells of the map only, `zero` also cells with key and value zero around it.
        content: Whether logits contain q . k; without, which asks for relative positions, there is no W_K (the paper's
            ablation).
        scale: Factor of all logits; the paper's equations have none, which 1 stands for.
    """

    position_tables = ("row_embedding", "column_embedding")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        heads: int = 8,
        kernel_size: int = 7,
        positions: Positions = "relative",
        shared_tables: bool = False,
        border: Border = "mask",
        content: bool = True,
        scale: float = 1.0,
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        check_at_least(1, heads=heads)
        check_odd(kernel_size=kernel_size)
        check_choice("positions", positions, get_args(Positions))
        check_choice("border", border, get_args(Border))
        relative = positions == "relative"
        check_divides("out_channels", out_channels, "2 heads" if relative else "heads", (1 + relative) * heads)
        if not (relative or content):
            raise ValueError(f"positions={positions!r} and content=False leave no logits; choose one of the two")
        self.heads, self.kernel_size, self.scale = heads, kernel_size, scale
        self.relative = relative
        self.border: Border = border
        named: Kind = "none" if positions == "relative" else "sinusoidal" if positions == "absolute" else positions
        self.positions = InputPositions(in_channels, named)
        projected = self.positions.out_channels
        self.query = nn.Conv2d(projected, out_channels, 1, bias=False)
        self.key = nn.Conv2d(projected, out_channels, 1, bias=False) if content else None
        self.value = nn.Conv2d(projected, out_channels, 1, bias=False)
        if relative:
            width = out_channels // heads
            tables = (1 if shared_tables else heads, width // 2, kernel_size)
            self.row_embedding = nn.Parameter(torch.randn(tables) * width**-0.5)
            self.column_embedding = nn.Parameter(torch.randn(tables) * width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes `x` (B, C_in, H, W) into (B, C_out, ceil(H / stride), ceil(W / stride))."""
        projected = channels_last(self.positions(x))
        query, value = self._heads(self.query(projected)), self._heads(self.value(projected))
        key = None if self.key is None else self._heads(self.key(projected))
        mixed = self.attend(query, key, value).permute(0, 3, 1, 2)
        return in_format_of(x, cell_means(mixed, self.stride))

    def attend(self, query: Tensor, key: Tensor | None, value: Tensor) -> Tensor:
        """Values mixed by the weights of queries and keys, all (B, H, W, heads, D), into (B, H, W, C_out)."""
        with autocast_off(query.device):  # products of queries and keys, which nothing scales, leave float16's range
            widened = None if key is None else at_least_float32(key)
            weights = self._weights(at_least_float32(query) * self.scale, widened)
        return neighbourhood_sum(weights, value).flatten(3)

    def _heads(self, projected: Tensor) -> Tensor:
        """A projection (B, C_out, H, W) as (B, H, W, heads, D)."""
        return projected.permute(0, 2, 3, 1).unflatten(3, (self.heads, -1))

    def _weights(self, query: Tensor, key: Tensor | None) -> Tensor:
        """Weight of every cell for every query, (B, H, W, heads, k k), from queries and keys (B, H, W, heads, D)."""
        side = (self.kernel_size, self.kernel_size)
        height, width = query.shape[1:3]
        rows, columns = (neighbourhood_rows(size, self.kernel_size, 1, 1, query.device) for size in (height, width))
        # What depends on the row of a cell, (B, H, W, heads, k, 1), and on its column, (B, H, W, heads, 1, k).
        of_rows, of_columns = self._relative(query)
        if self.border == "mask":
            of_rows = of_rows.masked_fill(~inside_map(rows, height)[:, None, None, :, None], -torch.inf)
            of_columns = of_columns.masked_fill(~inside_map(columns, width)[:, None, None, :], -torch.inf)
        logits = of_rows + of_columns
        if key is not None:
            logits = logits + neighbourhood_products(query, key, self.kernel_size).unflatten(-1, side)
        weights = logits.flatten(-2).softmax(-1)
        if self.recording:
            self.record("key", weights.permute(0, 3, 1, 2, 4).unflatten(-1, side), rows, columns)
        return weights

    def _relative(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Relative logits by row and by column of the cell, (B, H, W, heads, k, 1) and (B, H, W, heads, 1, k)."""
        if not self.relative:
            zeros = query.new_zeros(*query.shape[:4], self.kernel_size)
            return zeros.unsqueeze(-1), zeros.unsqueeze(-2)
        by_row, by_column = query.chunk(2, -1)
        return (
            _by_table(by_row, self.row_embedding).unsqueeze(-1),
            _by_table(by_column, self.column_embedding).unsqueeze(-2),
        )


def _by_table(queries: Tensor, table: Tensor) -> Tensor:
    """Products of queries (B, H, W, heads, d) and a table (heads or 1, d, k), (B, H, W, heads, k)."""
    return torch.einsum("bijhd,hdk->bijhk", queries, table.to(queries.dtype).expand(queries.shape[3], -1, -1))
