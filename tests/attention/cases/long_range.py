"""Axial, channelized, non-local, criss-cross, dual and double attention."""

from attention.axial import AxialAttention
from attention.channelized_axial import ChannelizedAxialAttention
from attention.criss_cross import CrissCrossAttention
from attention.double_attention import DoubleAttention
from attention.dual_attention import DualAttention
from attention.non_local import NonLocal
from tests.attention.cases.case import Case


def _axial(c: int, d: int, of_axis: int) -> int:
    return 2 * c * d + 2 * d * d + 2 * of_axis


def _gates(c: int, hidden: int) -> int:
    return 2 * (2 * c * (c // 4) + (hidden - 1) * (c // 4) ** 2)


REFINEMENTS = [
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
]


MIXERS = [
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
