"""Self-attention by relative positions against the softmax over all keys, written out from arXiv 1911.03584.

The literal form makes every head's (H W, H W) weights and sums the values of all keys, as the authors' code does. A
part of its time with Gaussians goes into products of subnormal numbers, the tails of the weights: compare with the
learned encodings, which have none. The last comparison shows what a 3 x 3 convolution costs that is expressed by nine
heads.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from attention.content_relative import ContentRelativeSelfAttention
from attention.learned_relative import LearnedRelativeSelfAttention
from attention.offsets import RelativeSelfAttention
from attention.quadratic import QuadraticSelfAttention
from benchmarks.attention_cases import Bounds, Call, Comparison

HEIGHT, WIDTH = 32, 40


def literal(scores: Tensor, x: Tensor, value: nn.Linear) -> Tensor:
    """Output map for scores (1 or B, heads, H, W, H, W) of queries and keys."""
    batch, _, height, width = x.shape
    weights = scores.flatten(4).softmax(4).flatten(2, 3)  # (B, heads, N, N)
    tokens = x.flatten(2).transpose(1, 2).unsqueeze(1)  # (B, 1, N, C)
    attended = weights @ tokens  # (B, heads, N, C)
    out = value(attended.transpose(1, 2).reshape(batch, height * width, -1))
    return out.transpose(1, 2).reshape(batch, -1, height, width)


def _offsets(x: Tensor) -> tuple[Tensor, Tensor]:
    """Key minus query by row (H, 1, H, 1) and by column (W, 1, W)."""
    row, column = (torch.arange(size) for size in x.shape[2:])
    return (row - row[:, None])[:, None, :, None], (column - column[:, None])[:, None, :]


def literal_quadratic(operator: QuadraticSelfAttention, x: Tensor) -> Tensor:
    """Isotropic quadratic self-attention as its equation reads, without padding or stride."""
    rows, columns = _offsets(x)
    centres, spreads = operator.centres[:, :, None, None, None, None], operator.spreads[:, None, None, None, None]
    scores = -spreads.square() / 2 * ((rows - centres[:, 0]).square() + (columns - centres[:, 1]).square())
    return literal(scores.unsqueeze(0), x, operator.value)


def literal_learned(operator: LearnedRelativeSelfAttention, x: Tensor) -> Tensor:
    """Self-attention with learned relative encodings as its equation reads, without stride."""
    return literal(_positional_scores(operator, x).unsqueeze(0), x, operator.value)


def literal_content(operator: ContentRelativeSelfAttention, x: Tensor) -> Tensor:
    """The same with content."""
    tokens = x.flatten(2).transpose(1, 2)
    query, key = (
        layer(tokens).unflatten(2, (operator.heads, -1)).transpose(1, 2) for layer in (operator.query, operator.key)
    )
    scores = (query @ key.transpose(2, 3) / x.shape[1] ** 0.5).unflatten(3, x.shape[2:]).unflatten(2, x.shape[2:])
    return literal(scores + _positional_scores(operator, x), x, operator.value)


def _positional_scores(operator: LearnedRelativeSelfAttention, x: Tensor) -> Tensor:
    """Scores (heads, H, W, H, W) of learned encodings."""
    rows, columns = _offsets(x)
    last = operator.size - 1
    by_row, by_column = (
        heads(encodings(offsets.clamp(-last, last) + last))
        for offsets, encodings, heads in (
            (rows, operator.row_encodings, operator.row_heads),
            (columns, operator.column_encodings, operator.column_heads),
        )
    )
    return (by_row + by_column).permute(4, 0, 1, 2, 3)


def _beside(
    operator_class: type[RelativeSelfAttention], peer: Callable[..., Tensor], channels: int
) -> tuple[Call, Call, list[Tensor]]:
    torch.manual_seed(0)
    operator = operator_class(channels, channels)
    return operator, partial(peer, operator), [torch.randn(2, channels, HEIGHT, WIDTH, requires_grad=True)]


def _convolution(channels: int = 256) -> tuple[Call, Call, list[Tensor]]:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, channels, 3, padding=1)
    return QuadraticSelfAttention.from_conv(conv), conv, [torch.randn(2, channels, 50, 68, requires_grad=True)]


COMPARISONS = [
    Comparison(
        "quadratic self-attention, literal softmax, 2x256x32x40",
        partial(_beside, QuadraticSelfAttention, literal_quadratic, 256),
        Bounds(forward=4.5, training=2.5, memory=0.25),
    ),
    Comparison(
        "learned relative self-attention, literal softmax, 2x256x32x40",
        partial(_beside, LearnedRelativeSelfAttention, literal_learned, 256),
        Bounds(forward=5, training=2.5, memory=0.3),
    ),
    Comparison(
        "content relative self-attention, literal softmax, 2x64x32x40",
        partial(_beside, ContentRelativeSelfAttention, literal_content, 64),
        Bounds(forward=0.98, training=0.98),
    ),
    Comparison("quadratic self-attention of nine heads, 3x3 convolution, 2x256x50x68", _convolution),
]
