"""Self-attention with content and relative encodings (Cordonnier et al., ICLR 2020, arXiv 1911.03584)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.functional.logits import precise_logits
from attention.functional.plain import may_store
from attention.learned_relative import LearnedRelativeSelfAttention


class ContentRelativeSelfAttention(LearnedRelativeSelfAttention):
    """Heads that attend by content and by learned encodings of the row offset and the column offset.

        A_h(q, k) = (Q_h x_q) . (K_h x_k) / sqrt(C_in) + w_h . r_{k_1 - q_1} + w'_h . c_{k_2 - q_2}      (H W) per query
        y_q = sum_h W_h sum_k softmax_k(A_h(q, k)) x_k + b                                       (B, C_out, H', W')

    arXiv 1911.03584, section 4.3 ("learned embedding with content"), and the authors' code: queries and keys of C_in
    numbers per head with biases (the key's bias cancels in the softmax), sums over the raw input. Where there are too
    many weights to store, the two positional terms are taken into the dot product as H + W further channels, so that
    fused attention kernels apply. Offsets beyond the tables use their ends. Keys lie inside the map.

    Parameters: those of `LearnedRelativeSelfAttention` and 2 heads C_in (C_in + 1). Cost: heads C_in (H W + H' W') C_in
    multiply-accumulates for queries and keys, 2 heads H' W' H W C_in for the attention (C_in + H + W in place of C_in
    where the weights are not stored), heads H' W' C_in C_out for the output; memory grows with heads H' W' H W, or with
    heads H W (C_in + H + W) where they are not stored.

    Place: for a spatial convolution on small maps.

    Args:
        in_channels: Number of channels C_in of the input map, at least 1.
        out_channels: Number of channels C_out of the output map, at least 1.
        stride: Distance of the queries in cells in both directions, at least 1.
        heads: Number of heads, at least 1. The paper takes 9.
        size: Side P of the largest map whose offsets all have an encoding of their own, in cells, at least 1.
        encoding_channels: Numbers p per encoding, at least 1; 0 takes `in_channels`, as the paper does.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        heads: int = 9,
        size: int = 16,
        encoding_channels: int = 0,
    ) -> None:
        super().__init__(in_channels, out_channels, stride, heads, size, encoding_channels)
        self.query = nn.Linear(in_channels, heads * in_channels)
        self.key = nn.Linear(in_channels, heads * in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes `x` (B, C_in, H, W) into a map (B, C_out, ceil(H / stride), ceil(W / stride))."""
        channels, height, width = x.shape[1:]
        every = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        asking = every[:, :: self._step(), :: self._step()]
        query, key = (  # (B, heads, N' or N, C)
            layer(tokens.flatten(1, 2)).unflatten(2, (self.heads, channels)).transpose(1, 2)
            for layer, tokens in ((self.query, asking), (self.key, every))
        )
        query = query / channels**0.5
        rows, columns = self._scores(x)  # (heads, H', H) and (heads, W', W)
        number = x.shape[0] * self.heads * query.shape[2] * height * width
        if self.recording or may_store(number):
            scores = precise_logits(query, key).unflatten(3, (height, width)).unflatten(2, asking.shape[1:3])
            weights = scores + rows[:, :, None, :, None] + columns[:, None, :, None, :]
            weights = weights.flatten(4).softmax(4)  # (B, heads, H', W', N)
            if self.recording:
                self._record(weights.unflatten(4, (height, width)), x)
            attended = weights.flatten(2, 3).to(key.dtype) @ every.flatten(1, 2).unsqueeze(1).to(key.dtype)
        else:
            attended = self._fused(query, key, every, rows, columns)
        out = self.value(attended.transpose(1, 2).flatten(2))
        return self._as_map(out.unflatten(1, asking.shape[1:3]), x)

    def _fused(self, query: Tensor, key: Tensor, every: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Sums (B, heads, N', C) for queries (B, heads, N', C) and keys (B, heads, N, C), without a map of weights."""
        height, width, channels = every.shape[1:]
        row, column = (torch.arange(size, device=every.device) for size in (height, width))
        at_row, at_column = ((cells.unsqueeze(1) == cells).to(key.dtype) for cells in (row, column))
        query, key = (  # H + W more channels: the scores by row and column, and one-hot which row and column it is
            torch.cat([tokens, _side_by_side(by_row, by_column).to(tokens.dtype).expand(*tokens.shape[:3], -1)], 3)
            for tokens, by_row, by_column in ((query, rows, columns), (key, at_row, at_column))
        )
        value = F.pad(every.flatten(1, 2).to(key.dtype), (0, height + width))  # fused kernels want equal widths
        value = value.unsqueeze(1).expand(-1, self.heads, -1, -1)
        return F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., :channels]


def _side_by_side(rows: Tensor, columns: Tensor) -> Tensor:
    """For every cell what belongs to its row, (..., H', H), and to its column, (..., W', W): (..., H' W', H + W)."""
    height, width = rows.shape[-1], columns.shape[-1]
    rows, columns = F.pad(rows, (0, width), value=0.0), F.pad(columns, (height, 0), value=0.0)
    return (rows.unsqueeze(-2) + columns.unsqueeze(-3)).flatten(-3, -2)
