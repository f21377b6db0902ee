"""Local filters against their equation, written out as loops, and against the operators that they unify."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attention import DepthwiseConvolution, LocalFilter, StandAloneSelfAttention, WindowAttention, record_attention
from backbones.swin_block import WindowAttention as SwinAttention

ALL_TERMS = ("content", "query", "key", "bias")


def project(layer, x):
    """A 1x1 convolution of a map (C, H, W) of one sample."""
    weight = layer.weight.flatten(1)
    out = torch.einsum("oc,chw->ohw", weight, x)
    return out if layer.bias is None else out + layer.bias[:, None, None]


def cells_of(operator, i, j, height, width):
    """Cells that position (i, j) sums, with the numbers of their offsets in the tables."""
    k = operator.kernel_size
    if operator.application == "neighbourhood":
        corner, first, side = (i - k // 2, j - k // 2), (-(k // 2), -(k // 2)), k
    else:
        before = -operator.shift % k
        corner = tuple((at + before) // k * k - before for at in (i, j))
        first, side = (1 - k, 1 - k), 2 * k - 1
    for a, b in itertools.product(range(corner[0], corner[0] + k), range(corner[1], corner[1] + k)):
        if 0 <= a < height and 0 <= b < width:
            yield a, b, (a - i - first[0]) * side + b - j - first[1]


def normalized(operator, scores, head, offsets):
    if operator.normalization == "none":
        return scores
    if operator.normalization == "softmax":
        return scores.softmax(0)
    mean = scores.sum() / len(scores)
    deviation = (((scores - mean) ** 2).sum() / len(scores) + 1e-5).sqrt()
    gain, offset = (table.view(operator.heads, -1)[head, offsets] for table in (operator.gain, operator.offset))
    return gain * (scores - mean) / deviation + offset


def biases(operator):
    return operator.kernels if operator.terms == {"bias"} else operator.relative_bias


def reference(operator, x):
    """One position, head and cell at a time."""
    samples = []
    for sample in x:
        height, width = sample.shape[1:]
        query, key, value = (
            None if layer is None else project(layer, sample).unflatten(0, (operator.heads, -1))
            for layer in (operator.query, operator.key, operator.value)
        )
        rows, columns = range(0, height, operator.stride), range(0, width, operator.stride)
        sums = []
        for i, j, head in itertools.product(rows, columns, range(operator.heads)):
            cells = list(cells_of(operator, i, j, height, width))
            scores = []
            for a, b, offset in cells:
                score = x.new_zeros(())
                if "content" in operator.terms:
                    score = score + operator.scale * (query[head, :, i, j] * key[head, :, a, b]).sum()
                if "query" in operator.terms:
                    score = score + (query[head, :, i, j] * operator.relative_query[head, :, offset]).sum()
                if "key" in operator.terms:
                    score = score + (key[head, :, a, b] * operator.relative_key[head, :, offset]).sum()
                if "bias" in operator.terms:
                    score = score + biases(operator)[head, offset]
                scores.append(score)
            weights = normalized(operator, torch.stack(scores), head, [offset for *_, offset in cells])
            sums.append(sum(w * value[head, :, a, b] for w, (a, b, _) in zip(weights, cells, strict=True)))
        mixed = torch.stack(sums).view(len(rows), len(columns), -1).permute(2, 0, 1)
        samples.append(project(operator.out, mixed))
    return torch.stack(samples)


FORMS = [
    (("content",), "softmax"),
    (("bias",), "none"),
    (("bias",), "softmax"),
    (("bias",), "filter_norm"),
    (("query",), "filter_norm"),
    (("query", "bias"), "none"),
    (("key",), "softmax"),
    (ALL_TERMS, "filter_norm"),
    (ALL_TERMS, "softmax"),
]


@pytest.mark.parametrize(("terms", "normalization"), FORMS)
@pytest.mark.parametrize(
    ("application", "kernel", "stride", "shift"), [("neighbourhood", 3, 2, 0), ("window", 2, 1, 1), ("window", 3, 2, 0)]
)
def test_equation_forward_and_backward(terms, normalization, application, kernel, stride, shift, agree):
    torch.manual_seed(0)
    operator = LocalFilter(3, 4, stride, kernel, 2, terms, normalization, application, shift)
    agree(operator, reference, torch.randn(2, 3, 4, 3))


def same(left, right, x):
    torch.testing.assert_close(left.double()(x), right.double()(x), rtol=1e-9, atol=1e-9)


def randomized(operator, deviation=1.0):
    for parameter in operator.parameters():
        nn.init.normal_(parameter, std=deviation)
    return operator


def copy_shared(source, target):
    state = {name.replace("kernels", "relative_bias"): value for name, value in source.state_dict().items()}
    target.load_state_dict({name: value for name, value in state.items() if name in target.state_dict()}, strict=False)


X = torch.randn(2, 6, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("normalization", ["none", "softmax", "filter_norm"])
@pytest.mark.parametrize(("application", "kernel"), [("neighbourhood", 3), ("window", 3)])
def test_attention_whose_queries_are_zero_is_the_static_filter(normalization, application, kernel):
    static = randomized(LocalFilter(6, 8, 1, kernel, 4, ("bias",), normalization, application))
    full = randomized(LocalFilter(6, 8, 1, kernel, 4, ("content", "query", "bias"), normalization, application))
    copy_shared(static, full)
    nn.init.zeros_(full.query.weight)
    nn.init.zeros_(full.query.bias)
    same(static, full, X)


def test_static_filter_of_every_channel_is_a_depthwise_convolution():
    operator = randomized(DepthwiseConvolution(6, 8, 2, 5)).double()
    kernels = operator.kernels.view(8, 1, 5, 5)
    expected = operator.out(F.conv2d(operator.value(X), kernels, None, 2, 2, 1, 8))
    torch.testing.assert_close(operator(X), expected, rtol=1e-9, atol=1e-9)


def test_predicted_filter_of_constant_queries_is_the_static_one():
    static = randomized(LocalFilter(6, 8, 1, 3, 1, ("bias",), "none"))
    predicted = randomized(LocalFilter(6, 8, 1, 3, 1, ("query",), "none"))
    copy_shared(static, predicted)
    nn.init.zeros_(predicted.query.weight)
    nn.init.ones_(predicted.query.bias)
    predicted.relative_query.data = static.kernels.data.unsqueeze(1).clone()
    same(static, predicted, X)


def test_relative_queries_alone_beside_content_are_stand_alone_self_attention():
    local = randomized(LocalFilter(6, 8, 1, 3, 4, ("content", "query"), scale=1.0, bias=False))
    peer = StandAloneSelfAttention(6, 8, 1, 2, 3)
    for name in ("query", "key", "value"):
        getattr(peer, name).load_state_dict(getattr(local, name).state_dict())
    tables = randomized(peer)
    rows, columns = tables.row_embedding.data, tables.column_embedding.data  # (heads, D / 2, k)
    joined = torch.cat([rows.unsqueeze(3).expand(-1, -1, 3, 3), columns.unsqueeze(2).expand(-1, -1, 3, 3)], 1)
    local.relative_query.data = joined.flatten(2)
    for name in ("query", "key", "value"):
        getattr(local, name).load_state_dict(getattr(peer, name).state_dict())
    nn.init.zeros_(local.out.bias)
    local.out.weight.data = torch.eye(8)[:, :, None, None]
    same(local, peer, X)


@pytest.mark.parametrize("shift", [0, 2])
def test_windows_are_those_of_swin_where_they_fill_the_map(shift):
    # Swin's -100 hides other regions from scores that are not larger.
    ours, peer = randomized(WindowAttention(64, 64, 1, 4, 32, shift), 0.1), SwinAttention(64, 4, shift, 2)
    with torch.no_grad():
        for index, name in enumerate(("query", "key", "value")):
            layer = getattr(ours, name)
            peer.qkv.weight[64 * index : 64 * (index + 1)] = layer.weight.flatten(1)
            peer.qkv.bias[64 * index : 64 * (index + 1)] = layer.bias
        peer.proj.weight.copy_(ours.out.weight.flatten(1))
        peer.proj.bias.copy_(ours.out.bias)
        peer.relative_position_bias_table.copy_(ours.relative_bias.flip(1).T)  # Swin counts from the key
    x = torch.randn(2, 64, 8, 12, dtype=torch.float64)
    expected = peer.double()(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(ours.double()(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("application", "shift"), [("neighbourhood", 0), ("window", 2)])
@pytest.mark.parametrize("stride", [1, 2])
def test_recorded_weights_reproduce_the_output(application, shift, stride):
    operator = randomized(LocalFilter(6, 4, stride, 3, 2, ALL_TERMS, "filter_norm", application, shift)).double()
    with record_attention(operator) as maps:
        out = operator(X)
    (found,) = maps[""]
    value = operator.value(X).unflatten(1, (2, 2))
    mixed = torch.zeros(2, 2, 2, *out.shape[2:], dtype=torch.float64)
    for i, j, a, b in itertools.product(*map(range, (*out.shape[2:], 3, 3))):
        row, column = int(found.rows[i, a]), int(found.columns[j, b])
        if 0 <= row < 7 and 0 <= column < 5:
            mixed[..., i, j] += found.weights[:, :, i, j, a, b, None] * value[..., row, column]
    torch.testing.assert_close(out, operator.out(mixed.flatten(1, 2)), rtol=1e-9, atol=1e-9)


def test_recording_changes_nothing_of_the_static_form():
    operator = randomized(LocalFilter(6, 8, 2, 3, 4, ("bias",))).double()
    expected = operator(X)
    with record_attention(operator):
        torch.testing.assert_close(operator(X), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_channels": 4, "terms": ()}, "terms='' is unknown"),
        ({"head_channels": 4, "terms": ("positions",)}, "terms='positions' is unknown"),
        ({"head_channels": 4, "kernel_size": 4}, "kernel_size=4 has no centre"),
        ({"head_channels": 3}, "out_channels=8 is not a multiple of head_channels=3"),
        ({"head_channels": 4, "shift": 1}, "shift=1 with application='neighbourhood'"),
        ({"head_channels": 4, "application": "window", "shift": 7}, "give 0 to 6"),
        ({"head_channels": 4, "normalization": "batch"}, "normalization='batch' is unknown"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LocalFilter(8, 8, **options)
