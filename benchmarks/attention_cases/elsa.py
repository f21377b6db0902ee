"""ELSA's inner operator beside the unfolded form, which the authors' code takes where there is no CUDA."""

import torch
from torch import Tensor
from torch.nn import functional as F

from attention.functional.layout import channels_last
from attention.functional.neighbourhood import neighbourhood_sum
from benchmarks.attention_cases import Bounds, Call, Comparison

BATCH, HEADS, WIDTH, SIDE, KERNEL = 2, 3, 32, 128, 7


def ours(values: Tensor, weights: Tensor, ghost: Tensor) -> Tensor:
    """What `attention.ELSA` computes between its projections, in its own layout: channels last."""
    heads = values.permute(0, 2, 3, 1).unflatten(3, (HEADS, WIDTH))
    by_position = weights.permute(0, 2, 3, 1).unflatten(3, (HEADS, KERNEL**2))
    mixed = neighbourhood_sum(by_position, heads).flatten(3).permute(0, 3, 1, 2)
    return mixed + F.conv2d(values, ghost, padding=KERNEL // 2, groups=len(ghost))


def unfolded(values: Tensor, weights: Tensor, ghost: Tensor) -> Tensor:
    """All k^2 neighbours of every channel side by side, times filters of the same size, summed."""
    batch, _, rows, columns = values.shape
    patches = F.unfold(values.reshape(batch * HEADS, WIDTH, rows, columns), KERNEL, padding=KERNEL // 2)
    shared = weights.reshape(batch * HEADS, 1, KERNEL**2, rows * columns)
    static = ghost.view(1, HEADS, WIDTH, KERNEL**2).expand(batch, -1, -1, -1).reshape(-1, WIDTH, KERNEL**2, 1)
    mixed = (patches.view(batch * HEADS, WIDTH, KERNEL**2, -1) * (shared + static)).sum(2)
    return mixed.view(batch, HEADS * WIDTH, rows, columns)


def prepare() -> tuple[Call, Call, list[Tensor]]:
    """Values (B, 96, 128, 128), weights (B, 3 * 49, 128, 128) that sum to one per head, additive ghost kernels.

    Both get channels_last maps, as the module's convolutions give them; that costs the peer one copy, 1 % of its time.
    """
    generator = torch.Generator().manual_seed(0)
    channels = HEADS * WIDTH
    scores = torch.randn(BATCH, HEADS, KERNEL**2, SIDE, SIDE, generator=generator)
    inputs = [
        channels_last(torch.randn(BATCH, channels, SIDE, SIDE, generator=generator)),
        channels_last(scores.softmax(2).flatten(1, 2)),
        0.02 * torch.randn(channels, 1, KERNEL, KERNEL, generator=generator),
    ]
    return ours, unfolded, [value.requires_grad_() for value in inputs]


COMPARISONS = [
    Comparison(
        "ELSA / unfolded, 2 x 3 heads x 32 channels, 128 x 128, k = 7",
        prepare,
        Bounds(forward=10, training=5, memory=1 / 30),
        tolerance=1e-3,  # a ghost gradient sums 32,768 products
    )
]
