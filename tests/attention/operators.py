"""Every operator once, in the sizes that the common tests use: the one parametrisation that a new mechanism needs."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from attention import CBAM, ELSA, ChannelAttention, CoordinateAttention, SpatialAttention, SqueezeExcitation
from attention.attention_augmented import AttentionAugmentedConv2d
from attention.attention_stem import AttentionStem
from attention.axial import AxialAttention
from attention.bam import BAM
from attention.bottleneck import BottleneckAttention
from attention.channelized_axial import ChannelizedAxialAttention
from attention.combined import Compose, Parallel
from attention.content_relative import ContentRelativeSelfAttention
from attention.criss_cross import CrissCrossAttention
from attention.depthwise import DepthwiseConvolution
from attention.double_attention import DoubleAttention
from attention.dual_attention import DualAttention
from attention.dynamic_filter import DynamicFilter
from attention.efficient_channel import EfficientChannelAttention
from attention.efficient_multi_scale import EfficientMultiScaleAttention
from attention.functional.layout import split_windows
from attention.functional.logits import precise_logits
from attention.gated_channel import GatedChannelTransformation
from attention.gather_excite import GatherExcite
from attention.global_context import GlobalContext
from attention.halo import HaloAttention
from attention.identity_start import IdentityStart
from attention.large_kernel import LargeKernelAttention
from attention.lavit import LessAttention, VanillaAttention
from attention.learn_to_pay import LearnToPayAttention
from attention.learn_to_pay_gate import LearnToPayGate
from attention.learned_relative import LearnedRelativeSelfAttention
from attention.local_filter import LocalFilter
from attention.non_local import NonLocal
from attention.outlook import OutlookAttention
from attention.progressive import ProgressiveAttention
from attention.quadratic import QuadraticSelfAttention
from attention.second_order import SecondOrderPooling
from attention.selective_kernel import SelectiveKernel
from attention.self_calibrated import SelfCalibratedConv2d
from attention.simam import SimAM
from attention.stand_alone import StandAloneSelfAttention
from attention.static_gate import StaticGate
from attention.strip_pooling import StripPooling
from attention.triplet import TripletAttention
from attention.window import WindowAttention


@dataclass(frozen=True)
class Case:
    """An operator under the tests that hold for all.

    Attributes:
        name: Name of the case.
        make: Makes the operator; refinements get `channels`, mixers (`in_channels`, `out_channels`, `stride`), others
            nothing.
        parameters: Number of parameters by the formula in the docstring, from the same arguments.
        zero_factor: y / x of a refinement when all its parameters are zero, where that is a constant.
        strides: Strides of a mixer to test.
        channels: Pairs (in_channels, out_channels) of a mixer to test.
        inputs: Makes the inputs of an operator that takes more than one map, from (rows, columns).
        flips: Whether a refinement commutes with flips of the map once its convolutions have constant kernels.
        zero_gradient: Name endings of parameters whose gradient is zero by the equation (say why in a comment).
        sums_to_one: Whether recorded mixtures are softmaxes over the keys inside the map.
        padding_counts: Why zeros around the map are part of the definition, where they are.
        not_exportable: Why there is no ONNX export, in words that the class docstring has too.
    """

    name: str
    make: Callable[..., nn.Module]
    parameters: Callable[..., int]
    zero_factor: float | None = None
    strides: tuple[int, ...] = (1, 2)
    channels: tuple[tuple[int, int], ...] = ((16, 16), (16, 32), (32, 16))
    inputs: Callable[[int, int], tuple[Tensor, ...]] | None = None
    flips: bool = True
    zero_gradient: tuple[str, ...] = ()
    sums_to_one: bool = True
    padding_counts: str | None = None
    not_exportable: str | None = None


def _bottleneck(c: int, r: int) -> int:
    return 2 * c * (c // r) + c // r + c


# Tests give refinements 16 and 24 channels.
REFINEMENTS = [
    Case("se", lambda c: SqueezeExcitation(c, 4), lambda c: _bottleneck(c, 4), 0.5),
    Case("se-max", lambda c: SqueezeExcitation(c, 4, "max", bias=False), lambda c: 2 * c * (c // 4), 0.5),
    Case("se-none", lambda c: SqueezeExcitation(c, 4, "none"), lambda c: _bottleneck(c, 4), 0.5),
    Case("channel", lambda c: ChannelAttention(c, 4), lambda c: _bottleneck(c, 4), 0.5),
    Case("spatial", SpatialAttention, lambda c: 100, 0.5),
    Case("spatial-conv", lambda c: SpatialAttention(c, 3, "conv"), lambda c: c + 9 + 2, 0.5),
    Case("spatial-bias", lambda c: SpatialAttention(c, 7, "conv", False, True), lambda c: c + 1 + 49 + 1, 0.5),
    Case("cbam", lambda c: CBAM(c, 4), lambda c: _bottleneck(c, 4) + 100, 0.25),
    Case("cbam-spatial-first", lambda c: CBAM(c, 4, order="spatial_first"), lambda c: _bottleneck(c, 4) + 100, 0.25),
    Case("cbam-parallel", lambda c: CBAM(c, 4, order="parallel"), lambda c: _bottleneck(c, 4) + 100, 0.25),
    Case("coordinate", lambda c: CoordinateAttention(c, 4), lambda c: 3 * c * 8 + 2 * c + 3 * 8, 0.25),
    Case(
        "coordinate-height",
        lambda c: CoordinateAttention(c, 4, directions="height"),
        lambda c: 2 * c * 8 + c + 3 * 8,
        0.5,
    ),
    Case(
        "coordinate-width",
        lambda c: CoordinateAttention(c, 4, directions="width"),
        lambda c: 2 * c * 8 + c + 3 * 8,
        0.5,
    ),
    Case(
        "bam",
        lambda c: BAM(c, 4, 2),
        lambda c: 18 * (c // 4) ** 2 + 3 * c * (c // 4) + c + 13 * (c // 4) + 1,
        1.5,
        zero_gradient=("channel.0.bias", "position.0.bias", "position.3.bias", "position.6.bias"),  # norms follow
    ),
    Case(
        "bam-sum",
        lambda c: BAM(c, 4, 1, "sum"),
        lambda c: 18 * (c // 4) ** 2 + 3 * c * (c // 4) + c + 13 * (c // 4) + 1,
        1.5,
        zero_gradient=("channel.0.bias", "position.0.bias", "position.3.bias", "position.6.bias"),
    ),
    Case(
        "bam-max",
        lambda c: BAM(c, 4, 2, "max"),
        lambda c: 18 * (c // 4) ** 2 + 3 * c * (c // 4) + c + 13 * (c // 4) + 1,
        1.5,
        zero_gradient=("channel.0.bias", "position.0.bias", "position.3.bias", "position.6.bias"),
    ),
    Case(
        "bam-channel",
        lambda c: BAM(c, 4, fusion="channel"),
        lambda c: 2 * c * (c // 4) + c + 3 * (c // 4),
        1.5,
        zero_gradient=("channel.0.bias",),
    ),
    Case(
        "bam-spatial",
        lambda c: BAM(c, 4, 6, "spatial"),
        lambda c: 18 * (c // 4) ** 2 + c * (c // 4) + 10 * (c // 4) + 1,
        1.5,
        zero_gradient=("position.0.bias", "position.3.bias", "position.6.bias"),
    ),
    Case("static", StaticGate, lambda c: c, 0.5),
    Case(
        "compose",
        lambda c: Compose(c, [SpatialAttention, lambda channels: SqueezeExcitation(channels, 4)]),
        lambda c: _bottleneck(c, 4) + 100,
        0.25,
    ),
    Case("parallel-mean", lambda c: Parallel(c, [SpatialAttention, StaticGate]), lambda c: 100 + c, 0.5),
    Case("parallel-product", lambda c: Parallel(c, [StaticGate, StaticGate], "product"), lambda c: 2 * c, 0.25),
    Case("efficient-channel", EfficientChannelAttention, lambda c: 3, 0.5),
    Case(
        "global-context",
        GlobalContext,
        lambda c: 2 * c * (c // 4) + 2 * c + 3 * (c // 4) + 1,
        1.0,
        zero_gradient=("key.bias",),  # adds the same to all scores
    ),
    Case(
        "global-context-multiply",
        lambda c: GlobalContext(c, 0.5, "multiply"),
        lambda c: 2 * c * (c // 2) + 2 * c + 3 * (c // 2) + 1,
        0.5,
        zero_gradient=("key.bias",),
    ),
    Case(
        "identity-start",
        lambda c: IdentityStart(c, lambda channels: CBAM(channels, 4)),
        lambda c: _bottleneck(c, 4) + 100 + 1,
        1.0,
    ),
]

# Gather-excite, SimAM, gated channels, triplets, multiple scales, large kernels and second-order pooling.
REFINEMENTS += [
    Case("gather-excite", GatherExcite, lambda c: 0),
    Case("gather-excite-4", lambda c: GatherExcite(c, 4), lambda c: 0, flips=False),  # windows start in a corner
    Case(
        "gather-excite-plus",
        lambda c: GatherExcite(c, 4, "convolution", True, 4),
        lambda c: 22 * c + _bottleneck(c, 4),
        0.5,
        flips=False,
    ),
    Case("gather-excite-global", lambda c: GatherExcite(c, None, "convolution", size=(4, 7)), lambda c: 30 * c, 0.5),
    Case("simam", SimAM, lambda c: 0),
    Case("gated-channel", GatedChannelTransformation, lambda c: 3 * c, 1.0),
    Case("gated-channel-l1", lambda c: GatedChannelTransformation(c, "l1"), lambda c: 3 * c, 1.0),
    Case("triplet", TripletAttention, lambda c: 300, 0.5),
    Case("triplet-two", lambda c: TripletAttention(c, 3, False), lambda c: 40, 0.5),
    Case(
        "multi-scale",
        lambda c: EfficientMultiScaleAttention(c, 4),
        lambda c: 10 * (c // 4) ** 2 + 4 * (c // 4),
        0.5,
    ),
    Case("large-kernel", LargeKernelAttention, lambda c: c * c + 77 * c, 0.0),
    Case(
        "large-kernel-projected",
        lambda c: LargeKernelAttention(c, 9, 3, True),
        lambda c: 3 * c * c + 39 * c,
        1.0,
    ),
    Case(
        "second-order",
        lambda c: SecondOrderPooling(c, 6),
        lambda c: 30 * c + 144 + c + 54,
        0.5,
        zero_gradient=("reduce.bias",),  # a norm follows
    ),
]


def _elsa(c: int, d: int) -> int:
    """Parameters beside the ghost kernels, with 2 heads, k = 3 and groups of 4 channels."""
    qk = -(-2 * (c // 3) // 4) * 4
    return (c + 1) * (2 * qk + d) + qk * (4 * 9 + 1) + 2 * 9 * (qk + 1) + d * d + d


# Tests give mixers (16, 16), (16, 32) and (32, 16) channels, unless the case has pairs of its own.
MIXERS: list[Case] = [
    Case(
        "elsa",
        lambda c, d, s: ELSA(c, d, s, 2, 3, 4),
        lambda c, d, s: _elsa(c, d) + 9 * d,
        sums_to_one=False,
        padding_counts="cells outside the map stay in the softmax",
    ),
    Case(
        "elsa-mul",
        lambda c, d, s: ELSA(c, d, s, 2, 3, 4, mul_power=1, border="mask"),
        lambda c, d, s: _elsa(c, d) + 2 * 9 * d,
    ),
    Case(
        "stand-alone",
        lambda c, d, s: StandAloneSelfAttention(c, d, s, 2, 3),
        lambda c, d, s: 3 * c * d + 3 * d,
    ),
    Case(
        "stand-alone-zero",
        lambda c, d, s: StandAloneSelfAttention(c, d, s, 2, 3, "relative", True, "zero"),
        lambda c, d, s: 3 * c * d + 3 * d // 2,
        sums_to_one=False,
        padding_counts="cells outside the map take part by their relative embedding",
    ),
]

MIXERS += [
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
]


# Local filters: 4 channels a head; T offsets, 9 around a position and 25 in a window of 3 x 3.
def _local(c: int, d: int, projections: int, tables: int) -> int:
    return projections * (c + 1) * d + d * (d + 1) + tables


_ALL_TERMS = ("content", "query", "key", "bias")
MIXERS += [
    Case(
        "local-content",
        lambda c, d, s: LocalFilter(c, d, s, 3, 4),
        lambda c, d, s: _local(c, d, 3, d // 4 * 9),
        zero_gradient=("key.bias",),  # adds the same to the scores of all keys
    ),
    Case(
        "local-all-terms",
        lambda c, d, s: LocalFilter(c, d, s, 3, 4, _ALL_TERMS),
        lambda c, d, s: _local(c, d, 3, 2 * d * 9 + d // 4 * 9),
    ),
    Case(
        "local-dynamic",
        lambda c, d, s: LocalFilter(c, d, s, 3, 4, ("query", "bias"), "filter_norm"),
        lambda c, d, s: _local(c, d, 2, d * 9 + 3 * d // 4 * 9),
        sums_to_one=False,
    ),
    Case(
        "local-static",
        lambda c, d, s: LocalFilter(c, d, s, 3, 4, ("bias",)),
        lambda c, d, s: _local(c, d, 1, d // 4 * 9),
    ),
    Case(
        "local-window",
        lambda c, d, s: LocalFilter(c, d, s, 3, 4, _ALL_TERMS, "filter_norm", "window", 1),
        lambda c, d, s: _local(c, d, 3, 2 * d * 25 + 3 * d // 4 * 25),
        sums_to_one=False,
    ),
    Case(
        "depthwise",
        lambda c, d, s: DepthwiseConvolution(c, d, s, 3),
        lambda c, d, s: c * d + d * d + d * 11,
        sums_to_one=False,
    ),
    Case(
        "window",
        lambda c, d, s: WindowAttention(c, d, s, 3, 4, 1),
        lambda c, d, s: 3 * c * d + d * d + 4 * d + d // 4 * 25,
        zero_gradient=("key.bias",),  # adds the same to the scores of all keys
    ),
    Case(
        "dynamic-filter",
        lambda c, d, s: DynamicFilter(c, d, s),
        lambda c, d, s: c * d + d * d + 2 * d + 9 * (c + 3) + (c + 1) * (c // 5) + 9 * d * (c // 5 + 3),
        sums_to_one=False,
        padding_counts="zeros around the map have weights, as in a convolution",
    ),
    Case(
        "dynamic-filter-sum",
        lambda c, d, s: DynamicFilter(c, d, s, 3, 4, "sum"),
        lambda c, d, s: c * d + d * d + 2 * d + 9 * (c + 3) + (c + 1) * (c // 4) + 9 * d * (c // 4 + 3),
        sums_to_one=False,
        padding_counts="zeros around the map have weights, as in a convolution",
    ),
]

# Operators that are neither, with inputs of their own.
OTHERS: list[Case] = []

# Selective kernels, the attention stem and convolution-like self-attention.
MIXERS += [
    Case(
        "selective-kernel",
        lambda i, o, s: SelectiveKernel(i, o, s, groups=4, min_channels=4),
        lambda i, o, s: 2 * (9 * i * o // 4 + 2 * o) + 3 * o * 4 + 2 * 4,
    ),
    Case(
        "selective-kernel-3",
        lambda i, o, s: SelectiveKernel(i, o, s, paths=3, groups=1, reduction=2, min_channels=4),
        lambda i, o, s: 3 * (9 * i * o + 2 * o) + 4 * o * (o // 2) + 2 * (o // 2),
    ),
    Case(
        "attention-stem",
        lambda i, o, s: AttentionStem(i, o, s, heads=2, mixtures=3, embedding=5),
        lambda i, o, s: 5 * i * o + (2 * s + 3) * 5 + 2 * o,
        strides=(4, 2),
        channels=((3, 16), (16, 32)),
    ),
    Case(
        "attention-stem-convolution",
        lambda i, o, s: AttentionStem(i, o, s, heads=2, values="convolution", value_kernel=3),
        lambda i, o, s: 11 * i * o + 2 * o,
        strides=(4, 2),
        channels=((3, 16), (16, 32)),
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
]

OTHERS += [
    Case(
        "learn-to-pay",
        lambda: LearnToPayAttention(16, 24, dropout=0),
        lambda: 17 + 2 * 24 + 24 * 16 + 16,
        inputs=lambda rows, columns: (torch.randn(2, 16, rows, columns), torch.randn(2, 24)),
        # the score's bias and whatever comes from the descriptor (input 1) cancel in the softmax
        zero_gradient=("1", "score.bias", "0.weight", "0.bias", "3.weight", "3.bias"),
    ),
    Case(
        "learn-to-pay-dot",
        lambda: LearnToPayAttention(16, 24, "dot_product", dropout=0),
        lambda: 2 * 24 + 24 * 16 + 16,
        inputs=lambda rows, columns: (torch.randn(2, 16, rows, columns), torch.randn(2, 24)),
    ),
    Case(
        "learn-to-pay-local",
        lambda: LearnToPayAttention(16, 24, "dot_product", "local", dropout=0),
        lambda: 16 * 24,
        inputs=lambda rows, columns: (torch.randn(2, 16, rows, columns), torch.randn(2, 24)),
    ),
]


# Axial, channelized, non-local and criss-cross attention, and LaViT.
def _axial(c: int, d: int, of_axis: int) -> int:
    return 2 * c * d + 2 * d * d + 2 * of_axis


def _gates(c: int, hidden: int) -> int:
    return 2 * (2 * c * (c // 4) + (hidden - 1) * (c // 4) ** 2)


REFINEMENTS += [
    Case(
        "channelized-axial",
        lambda c: ChannelizedAxialAttention(c, 4),
        lambda c: 2 * (4 * c + 8) + c * c + 2 * c + _gates(c, 5),
        0.0,
    ),
    Case(
        "channelized-axial-plain",
        lambda c: ChannelizedAxialAttention(c, 4, "plain"),
        lambda c: 2 * (4 * c + 8) + c * c + 2 * c + _gates(c, 1),
        0.0,
    ),
    Case(
        "channelized-axial-none",
        lambda c: ChannelizedAxialAttention(c, 4, "none"),
        lambda c: 2 * (4 * c + 8) + c * c + 2 * c,
        0.0,
    ),
    Case(
        "channelized-axial-shallow",
        lambda c: ChannelizedAxialAttention(c, 4, hidden_layers=0, groups=3),
        lambda c: 2 * (4 * c + 8) + c * c + 2 * c + 2 * c * c,
        0.0,
    ),
    Case(
        "non-local",
        NonLocal,
        lambda c: 4 * c * (c // 2) + 3 * (c // 2) + c,
        1.0,
        zero_gradient=("phi.bias",),  # adds the same to the scores of all keys
    ),
    Case(
        "non-local-subsampled",
        lambda c: NonLocal(c, 4, True, True, True),
        lambda c: 4 * c * (c // 4) + 3 * (c // 4) + 3 * c,
        1.0,
        flips=False,  # of an odd size, the last row and column are cells of their own
        zero_gradient=("phi.bias", "out.bias"),  # the same to all keys; taken away by the normalisation
    ),
    Case(
        "criss-cross",
        CrissCrossAttention,
        lambda c: c * c + c + 2 * (c + 1) * (c // 8) + 1,
        1.0,
        zero_gradient=("key.bias",),  # adds the same to the scores of all keys
        sums_to_one=False,  # column and row do so together
    ),
    Case(
        "dual-attention",
        DualAttention,
        lambda c: c * c + c + 2 * (c + 1) * (c // 8) + 2,
        1.0,
        zero_gradient=("key.bias",),  # adds the same to the scores of all keys
    ),
    Case(
        "dual-attention-position",
        lambda c: DualAttention(c, 4, "position"),
        lambda c: c * c + c + 2 * (c + 1) * (c // 4) + 1,
        1.0,
        zero_gradient=("key.bias",),
    ),
    Case("dual-attention-channel", lambda c: DualAttention(c, branches="channel"), lambda c: 1, 1.0),
]

MIXERS += [
    Case(
        "axial",
        lambda c, d, s: AxialAttention(c, d, s, 2, 4),
        lambda c, d, s: _axial(c, d, 8 * d + 6 * 2 + 7 * d),
        zero_gradient=("content_norm.bias", "query_norm.bias", "key_norm.bias"),  # the same to all keys
    ),
    Case(
        "axial-query",
        lambda c, d, s: AxialAttention(c, d, s, 2, 4, "query"),
        lambda c, d, s: _axial(c, d, 6 * d + 4 * 2 + 7 * d // 4),
        zero_gradient=("content_norm.bias", "query_norm.bias"),
    ),
    Case(
        "axial-none",
        lambda c, d, s: AxialAttention(c, d, s, 2, 4, "none"),
        lambda c, d, s: _axial(c, d, 6 * d + 2 * 2),
        zero_gradient=("content_norm.bias",),
    ),
]

REFINEMENTS += [
    Case(
        "double-attention",
        DoubleAttention,
        lambda c: 4 * c * (c // 2) + 3 * (c // 2) + c,
        1.0,
        zero_gradient=("gather.bias",),  # adds the same to all positions
    ),
    Case(
        "double-attention-narrow",
        lambda c: DoubleAttention(c, 5, 3),
        lambda c: 16 * c + 11 + c,
        1.0,
        zero_gradient=("gather.bias",),
    ),
    Case("learn-to-pay-gate", LearnToPayGate, lambda c: c * c + c, 1.0),
    Case("learn-to-pay-gate-parametrised", lambda c: LearnToPayGate(c, "parametrised"), lambda c: c, 1.0),
    Case("progressive", ProgressiveAttention, lambda c: c // 8 * (10 * c + 2) + 1, 0.5),
    Case("strip-pooling", StripPooling, lambda c: 7 * c * c + 5 * c, 0.5),
]

MIXERS += [
    Case(
        "stand-alone-absolute",
        lambda c, d, s: StandAloneSelfAttention(c, d, s, 2, 3, "absolute"),
        lambda c, d, s: 3 * c * d,
    ),
    Case(
        "stand-alone-coord-conv",
        lambda c, d, s: StandAloneSelfAttention(c, d, s, 2, 3, "coord_conv"),
        lambda c, d, s: 3 * (c + 3) * d,
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
    Case(
        "outlook",
        lambda i, o, s: OutlookAttention(i, o, s, 2),
        lambda i, o, s: i * o + (i + 1) * 2 * 81 + o * o + o,
        sums_to_one=False,  # windows that overlap add up
        padding_counts="cells outside the map stay in the softmax",
    ),
    Case(
        "outlook-everywhere",
        lambda i, o, s: OutlookAttention(i, o, s, 4, grid_stride=1, bias=True),
        lambda i, o, s: i * o + o + (i + 1) * 4 * 81 + o * o + o,
        sums_to_one=False,
        padding_counts="cells outside the map stay in the softmax",
    ),
    Case(
        "self-calibrated",
        lambda i, o, s: SelfCalibratedConv2d(i, o, s),
        lambda i, o, s: 9 * i * o // 2 + 9 * i * i // 2 + 2 * i,
    ),
    Case(
        "self-calibrated-bilinear",
        lambda i, o, s: SelfCalibratedConv2d(i, o, s, 3, "bilinear"),
        lambda i, o, s: 9 * i * o // 2 + 9 * i * i // 2 + 2 * i,
    ),
]


def _join_scores(operator: nn.Module, inputs: tuple[Tensor, ...], out: tuple[Tensor, Tensor]) -> Tensor:
    """Forward hook: map and scores as one tensor (B, ...), as the common tests want it."""
    return torch.cat([out[0].flatten(1), out[1].reshape(len(out[0]), -1)], 1)


def _give_scores(operator: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor, Tensor]:
    """Forward pre-hook: scores of a layer before, computed from the map."""
    tokens = split_windows(inputs[0], operator.window).unflatten(2, (operator.heads, -1)).transpose(1, 2)
    return inputs[0], precise_logits(tokens, tokens) / 16


def _hooked(operator: nn.Module) -> nn.Module:
    if isinstance(operator, LessAttention):
        operator.register_forward_pre_hook(_give_scores)
    operator.register_forward_hook(_join_scores)
    return operator


OTHERS += [
    Case(
        "vanilla-attention",
        lambda: _hooked(VanillaAttention(16, 2, 3)),
        lambda: 4 * 16 * 16 + 4 * 16,
        inputs=lambda rows, columns: (torch.randn(2, 16, rows, columns),),
    ),
    Case(
        "less-attention",
        lambda: _hooked(LessAttention(16, 2, 3)),
        lambda: 2 * 16 * 16 + 2 * 16 + 2 * 81 + 2 * 9,
        inputs=lambda rows, columns: (torch.randn(2, 16, rows, columns),),
    ),
    Case(
        "less-attention-rank",
        lambda: _hooked(LessAttention(16, 2, 3, rank=2)),
        lambda: 2 * 16 * 16 + 2 * 16 + 4 * 2 * 9 + 2 * 9,
        inputs=lambda rows, columns: (torch.randn(2, 16, rows, columns),),
    ),
]


def arguments(case: Case) -> tuple[int, ...]:
    """What `make` and `parameters` get in the tests that run one variant of every case."""
    if case in REFINEMENTS:
        return (16,)
    if case in MIXERS:
        return (*case.channels[min(1, len(case.channels) - 1)], case.strides[-1])
    return ()


def variants(case: Case) -> list[tuple[int, ...]]:
    """What `make` gets in the tests that run a case with every stride."""
    if case in MIXERS:
        return [(*arguments(case)[:2], stride) for stride in case.strides]
    return [arguments(case)]


def make_inputs(case: Case, rows: int, columns: int) -> tuple[Tensor, ...]:
    """Inputs of a case with two samples, as leaves that want gradients."""
    generator = torch.Generator().manual_seed(rows * 100 + columns)
    if case.inputs is not None:
        with torch.random.fork_rng():
            torch.manual_seed(rows * 100 + columns)
            inputs = case.inputs(rows, columns)
    else:
        inputs = (torch.randn(2, arguments(case)[0], rows, columns, generator=generator),)
    return tuple(value.requires_grad_() for value in inputs)


def make_operator(case: Case, *given: int, randomise: bool = True) -> nn.Module:
    """The operator of a case with random parameters, so that no layer which starts at zero hides the others."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        operator = case.make(*(given or arguments(case)))
    if randomise:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for value in operator.parameters():
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
            for name, value in operator.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return operator


every_refinement = pytest.mark.parametrize("case", REFINEMENTS, ids=lambda case: case.name)
every_mixer = pytest.mark.parametrize("case", MIXERS, ids=lambda case: case.name)
every_operator = pytest.mark.parametrize("case", [*REFINEMENTS, *MIXERS, *OTHERS], ids=lambda case: case.name)
every_device = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
