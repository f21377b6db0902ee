"""Self-attention with learned relative encodings (Cordonnier et al., ICLR 2020, arXiv 1911.03584)."""

import torch
from torch import Tensor, nn

from attention.base import check_at_least
from attention.offsets import RelativeSelfAttention


class LearnedRelativeSelfAttention(RelativeSelfAttention):
    """Heads that attend by learned encodings of the row offset and the column offset, not by content.

        A_h(delta) = w_h . r_{delta_1} + w'_h . c_{delta_2},   delta = key - query                (H W) per query
        y_q = sum_h W_h sum_k softmax_k(A_h(k - q)) x_k + b                                       (B, C_out, H', W')

    arXiv 1911.03584, section 4.3, and the authors' code: tables r and c of 2 P - 1 encodings of p numbers, every head
    with two vectors, sums over the raw input. The score is a row's term plus a column's term, so that its softmax
    splits and the sum is taken exactly by rows and then by columns. On maps with more than P rows or columns larger
    offsets use the table's end, as in Shaw et al. (arXiv 1803.02155, assumption A5); the tables are otherwise tied to
    the size P of the training maps. Keys lie inside the map. There is no dropout of weights, which would not split into
    rows and columns.

    Parameters: heads C_in C_out + C_out + 2 (2 P - 1 + heads) p. Cost: heads (H' W H + H' W' W + H' W' C_out) C_in
    multiply-accumulates and two maps of memory per head in training.

    Place: for a spatial convolution.

    Encodings and head vectors start normally distributed with standard deviation 0.02, nearly uniform attention.

    Args:
        in_channels: Number of channels C_in of the input map, at least 1.
        out_channels: Number of channels C_out of the output map, at least 1.
        stride: Distance of the queries in cells in both directions, at least 1.
        heads: Number of heads, at least 1. The paper takes 9.
        size: Side P of the largest map whose offsets all have an encoding of their own, in cells, at least 1.
        encoding_channels: Numbers p per encoding, at least 1; 0 takes `in_channels`, as the paper does.
    """

    position_tables = ("row_encodings.weight", "column_encodings.weight")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        heads: int = 9,
        size: int = 16,
        encoding_channels: int = 0,
    ) -> None:
        super().__init__(in_channels, out_channels, stride, heads)
        check_at_least(1, size=size)
        check_at_least(0, encoding_channels=encoding_channels)
        self.size = size
        width = encoding_channels or in_channels
        self.row_encodings = nn.Embedding(2 * size - 1, width)
        self.column_encodings = nn.Embedding(2 * size - 1, width)
        self.row_heads = nn.Linear(width, heads, bias=False)
        self.column_heads = nn.Linear(width, heads, bias=False)
        for layer in (self.row_encodings, self.column_encodings, self.row_heads, self.column_heads):
            nn.init.normal_(layer.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes `x` (B, C_in, H, W) into a map (B, C_out, ceil(H / stride), ceil(W / stride))."""
        rows, columns = (
            scores.softmax(2, dtype=torch.promote_types(scores.dtype, torch.float32)) for scores in self._scores(x)
        )
        if self.recording:
            self._record((rows[:, :, None, :, None] * columns[:, None, :, None, :]).unsqueeze(0), x)
        return self._separable(x, rows, columns)

    def _scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of every query's row and key's row, (heads, H', H), and of columns, (heads, W', W)."""
        scores = []
        for size, encodings, heads in zip(
            x.shape[2:],
            (self.row_encodings, self.column_encodings),
            (self.row_heads, self.column_heads),
            strict=True,
        ):
            offsets = self._offsets(size, x.device).clamp(1 - self.size, self.size - 1)
            scores.append(heads(encodings.weight).T[:, offsets + self.size - 1])  # (heads, L', L)
        return scores[0], scores[1]
