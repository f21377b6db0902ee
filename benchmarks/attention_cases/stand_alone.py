"""Stand-alone self-attention's core beside unfolding."""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from attention import StandAloneSelfAttention
from attention.functional.layout import channels_last
from benchmarks.attention_cases import Bounds, Call, Comparison

CHANNELS = 256


def ours(operator: StandAloneSelfAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What the operator computes between its projections, with its own embeddings."""
    heads = (x.permute(0, 2, 3, 1).unflatten(3, (operator.heads, -1)) for x in (query, key, value))
    return operator.attend(*heads).permute(0, 3, 1, 2)


def unfolded(operator: StandAloneSelfAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """All k^2 neighbours of every key and value side by side, multiplied by einsum."""
    batch, _, height, width = query.shape
    heads, k = operator.heads, operator.kernel_size
    query = query.reshape(batch, heads, -1, height * width)
    key, value = (F.unfold(x, k, padding=k // 2).view(batch, heads, -1, k * k, height * width) for x in (key, value))
    rows = operator.row_embedding[:, :, :, None].expand(-1, -1, -1, k)
    columns = operator.column_embedding[:, :, None, :].expand(-1, -1, k, -1)
    embedding = torch.cat([rows, columns], 1).flatten(2)
    weights = torch.softmax(torch.einsum("bhdp,bhdtp->bhtp", query, key + embedding.unsqueeze(-1)), 2)
    return torch.einsum("bhtp,bhdtp->bhdp", weights, value).reshape(batch, -1, height, width)


def prepare(height: int, width: int) -> tuple[Call, Call, list[Tensor]]:
    """Queries, keys and values (1, 256, height, width), channels_last as the projections give them."""
    torch.manual_seed(0)
    operator = StandAloneSelfAttention(CHANNELS, CHANNELS, heads=8, kernel_size=7, border="zero")
    maps = (0.3 * torch.randn(1, CHANNELS, height, width) for _ in range(3))
    inputs = [channels_last(x).requires_grad_() for x in maps]
    return partial(ours, operator), partial(unfolded, operator), inputs


COMPARISONS = [
    Comparison(
        f"stand-alone self-attention / unfolded, 8 heads x 32 channels, {height} x {width}, k = 7",
        partial(prepare, height, width),
        Bounds(forward=10, training=10, memory=1 / 6, forward_memory=1 / 6),
    )
    for height, width in ((32, 40), (56, 72))
]
