"""Dual attention of DANet (Fu et al., CVPR 2019, arXiv 1809.02983)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Refine, bottleneck_channels, check_choice
from attention.functional.layout import in_format_of
from attention.functional.logits import precise_logits

Branches = Literal["both", "position", "channel"]


class DualAttention(Refine):
    """Every position reads from all positions, every channel from all channels, and both is added.

        P_i = sum_j softmax_j(q_i . k_j) v_j                    q, k: (B, m, H, W), v: (B, C, H, W)
        Z_c = sum_d softmax_d(max_e E_ce - E_cd) x_d            E_cd = sum_{H,W} x_c x_d: (B, C, C)
        y = x + alpha P + beta Z                                (B, C, H, W)

    arXiv 1809.02983, equations 1 to 4; q, k and v are 1 x 1 convolutions with biases, m = floor(C / reduction), and
    neither softmax has a scale. The minus sign of E, whose maximum cancels in the softmax, belongs to the authors' code
    and MMSegmentation's. The paper adds alpha P + x and beta Z + x behind convolutions of their own, which belong to
    its head; here x counts once, so that a block starts as the identity (assumption A45).

    alpha and beta start at zero. The (H W)^2 weights are never held: PyTorch's fused kernels compute them, on a CPU
    with q and k filled up with zeros to C channels, which they ask for; only recording computes them. Weights between
    channels are recorded as the mean share that a channel gets from all channels. E and its softmax are in float32
    under autocast. The bias of k adds the same to all logits of a position, so its gradient is zero. Compiles and
    exports for any size.

    Parameters: C^2 + C + 2 (C m + m) + 2; only `position` one less, only `channel` 1. Cost: H W (C^2 + 2 C m + (C +
    m) H W) multiply-accumulates for positions (2 C H W in place of the last term on a CPU) and 2 C^2 H W for channels;
    memory linear in H W.

    Place: between the two convolutions of a segmentation head, or behind late residual blocks.

    Args:
        channels: Number of channels C of the map, at least 1.
        reduction: Divisor r of the width of queries and keys, from 1 to C. The paper takes 8.
        branches: `both` (the paper), or only `position` or only `channel` attention (its ablation).
    """

    starts_as_identity = True

    def __init__(self, channels: int, reduction: int = 8, branches: Branches = "both") -> None:
        super().__init__(channels)
        check_choice("branches", branches, get_args(Branches))
        self.branches: Branches = branches
        if branches != "channel":
            width = bottleneck_channels(channels, reduction)
            self.query = nn.Conv2d(channels, width, 1)
            self.key = nn.Conv2d(channels, width, 1)
            self.value = nn.Conv2d(channels, channels, 1)
            self.alpha = nn.Parameter(torch.zeros(1))
        if branches != "position":
            self.beta = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Adds to `x` (B, C, H, W) what its positions and its channels read from each other."""
        out = x
        if self.branches != "channel":
            out = out + self.alpha * in_format_of(x, self._from_positions(x))
        if self.branches != "position":
            out = out + self.beta * in_format_of(x, self._from_channels(x))
        return out

    def _from_positions(self, x: Tensor) -> Tensor:
        """P, (B, C, H, W)."""
        queries, keys, values = (_tokens(part(x)) for part in (self.query, self.key, self.value))
        if self.recording:
            self._record_positions(queries, keys, x)
        if values.device.type != "cuda":  # a CPU's fused kernel takes one width only
            missing = (0, values.shape[3] - queries.shape[3])
            queries, keys = (F.pad(part, missing, value=0.0) for part in (queries, keys))
        read = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)  # (B, 1, H W, C)
        return read.squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:])

    def _from_channels(self, x: Tensor) -> Tensor:
        """Z, (B, C, H, W)."""
        flat = x.flatten(2)  # (B, C, H W)
        weights = torch.softmax(-precise_logits(flat, flat), 2)
        if self.recording:
            self.record("channel", weights.mean(1)[:, :, None, None])
        return torch.bmm(weights.to(flat.dtype), flat).unflatten(2, x.shape[2:])

    def _record_positions(self, queries: Tensor, keys: Tensor, x: Tensor) -> None:
        weights = torch.softmax(precise_logits(queries, keys), -1)
        rows, columns = (torch.arange(size, device=x.device).expand(size, size) for size in x.shape[2:])
        self.record("key", weights.unflatten(3, x.shape[2:]).unflatten(2, x.shape[2:]), rows, columns)


def _tokens(x: Tensor) -> Tensor:
    """(B, m, H, W) -> (B, 1, H W, m), with the channels side by side."""
    return x.flatten(2).transpose(1, 2).unsqueeze(1).contiguous()
