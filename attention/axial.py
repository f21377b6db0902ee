"""Position-sensitive axial attention (Wang et al., Axial-DeepLab, ECCV 2020, arXiv 2003.07853)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from attention.base import Mixer, check_at_least, check_choice
from attention.functional.layout import cell_means, in_format_of
from attention.functional.logits import at_least_float32, autocast_off, precise_logits

Position = Literal["sensitive", "query", "none"]


class AxialAttention(Mixer):
    """Multi-head attention along every column, then along every row of the result.

        y_o = sum_p softmax_p(BN(q_o . k_p) + BN(q_o . r^q_{p-o}) + BN(k_p . r^k_{p-o})) v_p        (B, C_out, H, W)
        z_o = BN(y_o) + BN(sum_p softmax_p(...) r^v_{p-o}),   [q; k; v] = BN(W x)               q, k: (d/2), v: (d)

    arXiv 2003.07853, position-sensitive attention: p runs over the line of o, d = C_out / heads, and the tables r^q,
    r^k (rows of d/2) and r^v (rows of d) belong to one axis and are shared by its heads. There is no 1 / sqrt(d); the
    normalisations stand where the authors' code has them (on the projections, on every summand of the logits per head,
    and on both summands of the output), which the paper's equation leaves out (assumption A23). `query` keeps q . r^q
    alone, as stand-alone attention does, and `none` drops all three tables together with their normalisations.

    A table has rows for offsets of up to span - 1; longer ones share its first or last row (clipping as in Shaw et al.,
    arXiv 1803.02155), so any H and W are accepted and lines of up to `span` cells are what the paper has. Every line is
    attended to as a whole. Nothing is padded but the cells of the average pooling that a stride ends with, which
    averages the cells inside the map. Logits and softmax stay in float32 under autocast. The offsets of the logits'
    normalisations add the same to all keys of a query, so their gradient is zero. Compiles and exports for any size.

    Parameters: per axis with c channels in (C_in for the columns, C_out for the rows) 2 c C_out + 8 C_out + 6 heads +
    (2 span - 1) 2 d; `query` 2 c C_out + 6 C_out + 4 heads + (2 span - 1) d / 2; `none` 2 c C_out + 6 C_out + 2 heads.
    Cost: H W (2 C_in C_out + 2 C_out^2 + t C_out (H + W)) multiply-accumulates, where t is 3.5, with `query` 2 and
    with `none` 1.5; memory H W (H + W) weights per head and (H^2 + W^2) 2 d numbers of the tables.

    Place: instead of the 3x3 convolution of a residual bottleneck.

    Args:
        in_channels: Number of channels C_in of the input map, at least 1.
        out_channels: Number of channels C_out of the output map, a multiple of 2 heads.
        stride: Subsampling factor, at least 1: average pooling after both axes, as in the authors' code.
        heads: Number of heads, at least 1. The paper takes 8.
        span: Number of cells, at least 1, up to which offsets have table rows of their own.
        position: Terms of position: `sensitive` (the paper), `query` (only q . r^q) or `none`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        heads: int = 8,
        span: int = 64,
        position: Position = "sensitive",
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        check_at_least(1, heads=heads, span=span)
        check_choice("position", position, get_args(Position))
        if out_channels % (2 * heads):
            raise ValueError(
                f"out_channels={out_channels} does not divide by 2 * heads={2 * heads}; give a multiple or fewer heads"
            )
        self.heads = heads
        self.column = _Line(in_channels, out_channels, heads, span, position, down=True)
        self.row = _Line(out_channels, out_channels, heads, span, position, down=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes `x` (B, C_in, H, W) along columns and rows into (B, C_out, ceil(H / stride), ceil(W / stride))."""
        mixed, of_columns = self.column(x)  # (B, C_out, H, W) and (B, heads, W, H, H)
        mixed, of_rows = self.row(mixed)
        if self.recording:
            self._record(of_columns.transpose(2, 3), of_rows)
        return cell_means(in_format_of(x, mixed), self.stride)

    def _record(self, of_columns: Tensor, of_rows: Tensor) -> None:
        height, width = of_rows.shape[2:4]
        down = torch.arange(height, device=of_rows.device)
        across = torch.arange(width, device=of_rows.device)
        self.record("column", of_columns.unsqueeze(-1), down.expand(height, height), across.unsqueeze(1))
        self.record("row", of_rows.unsqueeze(-2), down.unsqueeze(1), across.expand(width, width))


class _Line(nn.Module):
    """Attention along M lines of L cells, columns (`down`) or rows of a map, with the weights (B, heads, M, L, L)."""

    position_tables = ("query_table", "key_table", "value_table")

    def __init__(
        self, in_channels: int, out_channels: int, heads: int, span: int, position: Position, down: bool
    ) -> None:
        super().__init__()
        self.down = down
        self.heads = heads
        self.span = span
        self.width = width = out_channels // heads
        self.project = nn.Conv2d(in_channels, 2 * out_channels, 1, bias=False)
        self.project_norm = nn.BatchNorm1d(2 * out_channels)
        self.content_norm = nn.BatchNorm1d(heads)
        self.value_norm = nn.BatchNorm1d(out_channels)
        nn.init.normal_(self.project.weight, std=in_channels**-0.5)
        self.query_table: nn.Parameter | None = None
        self.key_table: nn.Parameter | None = None
        self.value_table: nn.Parameter | None = None
        if position != "none":
            self.query_table = _table(span, width // 2, width)
            self.query_norm = nn.BatchNorm1d(heads)
        if position == "sensitive":
            self.key_table = _table(span, width // 2, width)
            self.value_table = _table(span, width, width)
            self.key_norm = nn.BatchNorm1d(heads)
            self.position_norm = nn.BatchNorm1d(out_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        projected = self.project(x)
        # Maps of one row or column have ambiguous strides, at which the gradient of PyTorch's 2-d batch normalisation
        # is wrong in eval mode (CPU, 2.14); over one flat axis it is right, and the values are the same.
        projected = self.project_norm(projected.flatten(2)).unflatten(2, projected.shape[2:])
        if self.down:
            projected = projected.transpose(2, 3)
        batch, _, lines, length = projected.shape
        half = self.width // 2
        tokens = projected.unflatten(1, (self.heads, 2 * self.width)).permute(0, 1, 3, 4, 2)
        tokens = tokens.flatten(0, 2)  # (N, L, 2 d) with N = B heads M
        queries, keys, values = tokens.split([half, half, self.width], 2)
        with autocast_off(x.device):
            logits = self._normed(self.content_norm, precise_logits(queries, keys), batch, lines)
            if self.query_table is not None:
                near = torch.einsum("nid,ijd->nij", at_least_float32(queries), self._offsets(self.query_table, length))
                logits = logits + self._normed(self.query_norm, near, batch, lines)
            if self.key_table is not None:
                near = torch.einsum("njd,ijd->nij", at_least_float32(keys), self._offsets(self.key_table, length))
                logits = logits + self._normed(self.key_norm, near, batch, lines)
            weights = torch.softmax(logits, -1)  # (B heads, M, L, L)
        applied = weights.flatten(0, 1).to(values.dtype)  # (N, L, L)
        out = self.value_norm(self._merged(torch.matmul(applied, values), batch, lines))  # (B, C_out, H W)
        if self.value_table is not None:
            table = self._offsets(self.value_table, length).to(values.dtype)
            of_position = torch.einsum("nij,ijd->nid", applied, table)
            out = out + self.position_norm(self._merged(of_position, batch, lines))
        return out.unflatten(2, x.shape[2:]), weights.unflatten(0, (batch, self.heads))

    def _offsets(self, table: Tensor, length: int) -> Tensor:
        """Rows (L, L, d) of a table for the offsets, key minus query, of all pairs on a line; far ones clipped."""
        cells = torch.arange(length, device=table.device)
        offsets = (cells - cells.unsqueeze(1)).clamp(1 - self.span, self.span - 1)
        return at_least_float32(table)[offsets + self.span - 1]

    def _normed(self, norm: nn.BatchNorm1d, logits: Tensor, batch: int, lines: int) -> Tensor:
        """Normalises logits (N, L, L) per head and returns them as (B heads, M, L, L)."""
        length = logits.shape[2]
        split = logits.reshape(batch, self.heads, lines * length * length).to(norm.weight.dtype)
        return at_least_float32(norm(split)).view(batch * self.heads, lines, length, length)

    def _merged(self, values: Tensor, batch: int, lines: int) -> Tensor:
        """(N, L, d) -> (B, C_out, H W)."""
        split = values.view(batch, self.heads, lines, values.shape[1], self.width)
        return split.permute(*((0, 1, 4, 3, 2) if self.down else (0, 1, 4, 2, 3))).flatten(3).flatten(1, 2)


def _table(span: int, width: int, head_width: int) -> nn.Parameter:
    """Table of one vector per offset, with the authors' deviation."""
    return nn.Parameter(torch.randn(2 * span - 1, width) * head_width**-0.5)
