"""Refinements that weigh channels, positions or both by a gate of their own, and what combines refinements."""

from attention import CBAM, ChannelAttention, CoordinateAttention, SpatialAttention, SqueezeExcitation
from attention.bam import BAM
from attention.combined import Compose, Parallel
from attention.efficient_channel import EfficientChannelAttention
from attention.identity_start import IdentityStart
from attention.static_gate import StaticGate
from tests.attention.cases.case import Case


def _bottleneck(c: int, r: int) -> int:
    return 2 * c * (c // r) + c // r + c


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
        "identity-start",
        lambda c: IdentityStart(c, lambda channels: CBAM(channels, 4)),
        lambda c: _bottleneck(c, 4) + 100 + 1,
        1.0,
    ),
]
