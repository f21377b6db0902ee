"""Mixers of a neighbourhood or a window: convolutions that select or calibrate, local filters, ELSA, the stem."""

from attention import ELSA
from attention.attention_stem import AttentionStem
from attention.depthwise import DepthwiseConvolution
from attention.dynamic_filter import DynamicFilter
from attention.local_filter import LocalFilter
from attention.outlook import OutlookAttention
from attention.selective_kernel import SelectiveKernel
from attention.self_calibrated import SelfCalibratedConv2d
from attention.stand_alone import StandAloneSelfAttention
from attention.window import WindowAttention
from tests.attention.cases.case import Case

_ALL_TERMS = ("content", "query", "key", "bias")


def _elsa(c: int, d: int) -> int:
    """Parameters beside the ghost kernels, with 2 heads, k = 3 and groups of 4 channels."""
    qk = -(-2 * (c // 3) // 4) * 4
    return (c + 1) * (2 * qk + d) + qk * (4 * 9 + 1) + 2 * 9 * (qk + 1) + d * d + d


# Local filters: 4 channels a head; T offsets, 9 around a position and 25 in a window of 3 x 3.
def _local(c: int, d: int, projections: int, tables: int) -> int:
    return projections * (c + 1) * d + d * (d + 1) + tables


MIXERS = [
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
