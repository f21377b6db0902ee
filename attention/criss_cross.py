"""Criss-cross attention of CCNet (Huang et al., ICCV 2019, arXiv 1811.11721)."""

import torch
from torch import Tensor, nn

from attention.base import Refine, bottleneck_channels, check_at_least
from attention.functional.layout import in_format_of
from attention.functional.logits import precise_logits


class CrissCrossAttention(Refine):
    """Every position reads from its row and its column; after two turns it has read from everywhere.

        y_ij = x_ij + gamma (sum_{m != i} a_ij,m v_mj + sum_n b_ij,n v_in)                      (B, C, H, W)
        [a_ij; b_ij] = softmax([q_ij . k_mj for m != i; q_ij . k_in for all n])                 H - 1 + W weights

    arXiv 1811.11721, equations 1 and 2: q and k have floor(C / reduction) channels, v has C, all three projections have
    biases, and there is no 1 / sqrt(d). The position itself belongs to its row only, so one softmax goes over H + W - 1
    weights. All of it is repeated `recurrence` times with the same parameters.

    gamma starts at zero, so that the block starts as the identity. Any H and W, a single cell included. Logits and
    softmax stay in float32 under autocast. The bias of k adds the same to all logits of a position, so its gradient is
    zero. Compiles and exports for any size.

    Parameters: C^2 + C + 2 (C m + m) + 1 with m = floor(C / reduction). Cost: per turn H W (C^2 + 2 C m + (C + m)(H +
    W)) multiply-accumulates; memory H W (H + W) weights.

    Place: between the two 3x3 convolutions of a segmentation head.

    Args:
        channels: Number of channels C of the map, at least 1.
        reduction: Divisor r of the width of queries and keys, from 1 to C. The paper takes 8.
        recurrence: Number of turns with shared parameters, at least 1. The paper takes 2.
    """

    starts_as_identity = True

    def __init__(self, channels: int, reduction: int = 8, recurrence: int = 2) -> None:
        super().__init__(channels)
        check_at_least(1, recurrence=recurrence)
        width = bottleneck_channels(channels, reduction)
        self.recurrence = recurrence
        self.query = nn.Conv2d(channels, width, 1)
        self.key = nn.Conv2d(channels, width, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Adds to every position of `x` (B, C, H, W) what it reads on its row and column, `recurrence` times."""
        for _ in range(self.recurrence):
            x = x + self.gamma * self._read(x)
        return x

    def _read(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        queries, keys, values = (part(x).permute(0, 2, 3, 1) for part in (self.query, self.key, self.value))
        of_column = precise_logits(queries.transpose(1, 2), keys.transpose(1, 2)).transpose(1, 2)  # (B, H, W, H)
        own = torch.eye(height, dtype=torch.bool, device=x.device).unsqueeze(1)  # (H, 1, H)
        logits = torch.cat([of_column.masked_fill(own, float("-inf")), precise_logits(queries, keys)], 3)
        weights = torch.softmax(logits, 3)  # (B, H, W, H + W)
        a, b = weights.split([height, width], 3)
        if self.recording:
            self._record(a, b)
        from_column = torch.matmul(a.transpose(1, 2).to(values.dtype), values.transpose(1, 2)).transpose(1, 2)
        read = (from_column + torch.matmul(b.to(values.dtype), values)).permute(0, 3, 1, 2)  # (B, C, H, W)
        return in_format_of(x, read)

    def _record(self, a: Tensor, b: Tensor) -> None:
        """The weights of a turn are two maps, whose sum over both sets of keys is one."""
        height, width = a.shape[1:3]
        down, across = torch.arange(height, device=a.device), torch.arange(width, device=a.device)
        self.record("column", a[:, None, ..., None], down.expand(height, height), across.unsqueeze(1))
        self.record("row", b[:, None, :, :, None], down.unsqueeze(1), across.expand(width, width))
