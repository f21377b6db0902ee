"""Less attention against attention with queries and keys of its own, at the same output.

A fresh less-attention layer attends as the layer before did. So beside it stands multi-head self-attention with that
layer's queries and keys and its own values, in PyTorch's fused kernel, which gives the same map; its queries and keys
learn too. 192 channels, 6 heads, one window of the map's size: N = 49, 196 and 784 tokens. There are no goals: the
transforms cost 2 heads N^3 multiply-accumulates (with rank r 4 heads r N^2) where queries and keys cost
2 N C^2 + N^2 C, so that full less attention must lose at large N, and the numbers say by how much.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.lavit import LessAttention, VanillaAttention
from benchmarks.attention_cases import Call, Comparison

CHANNELS, HEADS = 192, 6


class _SelfAttention(nn.Module):
    """Multi-head self-attention over all cells of a map, by `scaled_dot_product_attention`."""

    def __init__(self, before: VanillaAttention, less: LessAttention) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = before.q, before.k, less.v, less.proj

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        # The scores of less attention are given, so the gradient of x passes the values alone on both sides.
        queries, keys = self.q(tokens.detach()), self.k(tokens.detach())
        parts = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in (queries, keys, self.v(tokens)))
        read = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        return self.proj(read).mT.unflatten(2, x.shape[2:])


class _Given(nn.Module):
    """Less attention by given scores, which want gradients as they do in a chain of layers."""

    def __init__(self, less: LessAttention, scores: Tensor) -> None:
        super().__init__()
        self.less = less
        self.scores = nn.Parameter(scores)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.less(x, self.scores)[0]
        return out


def _layers(window: int, batch: int, rank: int | None) -> tuple[Call, Call, list[Tensor]]:
    torch.manual_seed(0)
    before, less = VanillaAttention(CHANNELS, HEADS, window), LessAttention(CHANNELS, HEADS, window, rank)
    x = torch.randn(batch, CHANNELS, window, window)
    with torch.no_grad():
        scores = before(x)[1]
    return _Given(less, scores), _SelfAttention(before, less), [x.requires_grad_()]


COMPARISONS = [
    Comparison(
        f"less attention {'rank 16' if rank else 'full'}, fused self-attention, N={window**2}",
        partial(_layers, window, batch, rank),
    )
    for window, batch in ((7, 16), (14, 4), (28, 1))
    for rank in (None, 16)
]
