"""Refinements whose gate or summand sees a context: means of windows and strips, large kernels, second orders."""

from attention.efficient_multi_scale import EfficientMultiScaleAttention
from attention.gated_channel import GatedChannelTransformation
from attention.gather_excite import GatherExcite
from attention.global_context import GlobalContext
from attention.large_kernel import LargeKernelAttention
from attention.learn_to_pay_gate import LearnToPayGate
from attention.progressive import ProgressiveAttention
from attention.second_order import SecondOrderPooling
from attention.simam import SimAM
from attention.strip_pooling import StripPooling
from attention.triplet import TripletAttention
from tests.attention.cases.case import Case


def _bottleneck(c: int, r: int) -> int:
    return 2 * c * (c // r) + c // r + c


REFINEMENTS = [
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
    Case("learn-to-pay-gate", LearnToPayGate, lambda c: c * c + c, 1.0),
    Case("learn-to-pay-gate-parametrised", lambda c: LearnToPayGate(c, "parametrised"), lambda c: c, 1.0),
    Case("progressive", ProgressiveAttention, lambda c: c // 8 * (10 * c + 2) + 1, 0.5),
    Case("strip-pooling", StripPooling, lambda c: 7 * c * c + 5 * c, 0.5),
]
