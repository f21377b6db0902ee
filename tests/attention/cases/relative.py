"""Mixers by queries and relative positions, in blocks or over the whole map."""

from attention.attention_augmented import AttentionAugmentedConv2d
from attention.bottleneck import BottleneckAttention
from attention.content_relative import ContentRelativeSelfAttention
from attention.halo import HaloAttention
from attention.learned_relative import LearnedRelativeSelfAttention
from attention.quadratic import QuadraticSelfAttention
from tests.attention.cases.case import Case

MIXERS = [
    Case(
        "halo",
        lambda i, o, s: HaloAttention(i, o, s, 2, 2, 1),
        lambda i, o, s: 2 * i * i + i * o + 5 * i // 2,
    ),
    Case(
        "halo-average",
        lambda i, o, s: HaloAttention(i, o, s, 2, 3, 2, subsampling="average", scaling="both"),
        lambda i, o, s: 2 * i * i + i * o + 9 * i // 2,
    ),
    Case(
        "halo-timm",
        lambda i, o, s: HaloAttention(i, o, s, 2, 2, 1, layout="timm"),
        lambda i, o, s: 3 * i * o + 7 * o,
        sums_to_one=False,
        padding_counts="zeros around the map are keys",
    ),
    Case(
        "bottleneck",
        lambda i, o, s: BottleneckAttention(i, o, s, 2, (3, 4)),
        lambda i, o, s: 3 * i * o + 6 * o,
    ),
    Case(
        "attention-augmented",
        lambda i, o, s: AttentionAugmentedConv2d(i, o, s, 3, 2, 0.2, 0.25, 3, (3, 4)),
        lambda i, o, s: i * (12 + o // 4) + o**2 // 16 + 12 * 3 + 9 * i * (o - o // 4),
    ),
    Case(
        "attention-augmented-pooled",
        lambda i, o, s: AttentionAugmentedConv2d(i, o, s, 1, 2, 0.5, 1.0, 1, pooled=True, positions="none"),
        lambda i, o, s: i * 2 * o + o**2,
    ),
    Case(
        "quadratic",
        lambda i, o, s: QuadraticSelfAttention(i, o, s, 4),
        lambda i, o, s: 4 * (i * o + 3) + o,
    ),
    Case(
        "quadratic-full",
        lambda i, o, s: QuadraticSelfAttention(i, o, s, 4, "full"),
        lambda i, o, s: 4 * (i * o + 6) + o,
    ),
    Case(
        "quadratic-zeros",
        lambda i, o, s: QuadraticSelfAttention(i, o, s, 4, zero_padding=2),
        lambda i, o, s: 4 * (i * o + 3) + o,
        sums_to_one=False,
        padding_counts="zeros around the map are keys",
    ),
    Case(
        "learned-relative",
        lambda i, o, s: LearnedRelativeSelfAttention(i, o, s, 3, size=4, encoding_channels=5),
        lambda i, o, s: 3 * i * o + o + 2 * (7 + 3) * 5,
    ),
    Case(
        "content-relative",
        lambda i, o, s: ContentRelativeSelfAttention(i, o, s, 3, size=4),
        lambda i, o, s: 3 * i * o + o + 2 * (7 + 3) * i + 2 * 3 * i * (i + 1),
        zero_gradient=("key.bias",),  # adds the same to the scores of all keys
    ),
    Case(
        "halo-absolute",
        lambda i, o, s: HaloAttention(i, o, s, 2, 2, 1, positions="absolute"),
        lambda i, o, s: 2 * i * i + i * o,
    ),
    Case(
        "attention-augmented-sinusoidal",
        lambda i, o, s: AttentionAugmentedConv2d(i, o, s, 3, 2, 0.2, 0.25, 3, positions="sinusoidal"),
        lambda i, o, s: i * (12 + o // 4) + o**2 // 16 + 9 * i * (o - o // 4),
    ),
    Case(
        "attention-augmented-coord-conv",
        lambda i, o, s: AttentionAugmentedConv2d(i, o, s, 3, 2, 0.2, 0.25, 3, positions="coord_conv"),
        lambda i, o, s: (i + 3) * (12 + o // 4) + o**2 // 16 + 9 * i * (o - o // 4),
    ),
]
