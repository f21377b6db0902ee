"""Parts of self-attention by relative positions (Cordonnier et al., ICLR 2020, arXiv 1911.03584)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Mixer, check_at_least
from attention.functional.layout import every_nth, in_format_of


class RelativeSelfAttention(Mixer):
    """Heads that attend to every position by its offset, sum the raw input and share one linear layer for the output.

    Args:
        in_channels: Number of channels C_in of the input map, at least 1.
        out_channels: Number of channels C_out of the output map, at least 1.
        stride: Distance of the queries in cells in both directions, at least 1.
        heads: Number of heads, at least 1.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, heads: int) -> None:
        super().__init__(in_channels, out_channels, stride)
        check_at_least(1, heads=heads)
        self.heads = heads
        self.value = nn.Linear(heads * in_channels, out_channels)

    def _offsets(self, size: int, device: torch.device, margin: int = 0) -> Tensor:
        """Key minus query in cells along one direction, (L', L + 2 margin)."""
        keys = torch.arange(-margin, size + margin, device=device)
        return keys - torch.arange(0, size, self._step(), device=device).unsqueeze(1)

    def _step(self) -> int:
        """Distance of the queries that are computed: exporters know every n-th position only of a finished map."""
        return 1 if torch.compiler.is_exporting() else self.stride

    def _as_map(self, out: Tensor, x: Tensor) -> Tensor:
        """Results (B, H', W', C_out) of the queries that were computed as the output map."""
        return every_nth(in_format_of(x, out.permute(0, 3, 1, 2)), self.stride // self._step())

    def _separable(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Output map under weights that are products of rows' (heads, H', H) and columns' (heads, W', W).

        sum_ab R_ia C_jb x_ab is two sums of one direction each, O(H + W) for an output where the whole map is O(H W).
        """
        batch, channels, _, width = x.shape
        rows, columns = (without_traces(weights).to(x.dtype) for weights in (rows, columns))
        values = x.permute(0, 2, 3, 1).flatten(2)  # (B, H, W C)
        matrices = self.value.weight.T.unflatten(0, (self.heads, channels))  # (heads, C, C_out)
        out: Tensor = self.value.bias
        for row, column, matrix in zip(rows.unbind(), columns.unbind(), matrices.unbind(), strict=True):
            attended = torch.bmm(row.expand(batch, -1, -1), values).unflatten(2, (width, channels))  # (B, H', W, C)
            attended = column.expand(batch, row.shape[0], -1, -1) @ attended  # (B, H', W', C)
            out = out + attended @ matrix  # (B, H', W', C_out)
        return self._as_map(out, x)

    def _record(self, weights: Tensor, x: Tensor, margin: int = 0) -> None:
        """Notes weights (1 or B, heads, H', W', h, w) down."""
        tables = []
        for size, queries in zip(x.shape[2:], weights.shape[2:4], strict=True):
            tables.append(torch.arange(-margin, size + margin, device=x.device).expand(queries, -1))
        self.record("key", weights.expand(x.shape[0], -1, -1, -1, -1, -1), *tables)


def without_traces(weights: Tensor) -> Tensor:
    """Weights with zeros where they are far below rounding.

    The tails of Gaussians are subnormal numbers, with which matrix products are several times slower on a CPU.
    """
    return F.threshold(weights, torch.finfo(weights.dtype).eps ** 3, 0.0)
