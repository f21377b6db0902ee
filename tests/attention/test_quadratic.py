"""Self-attention by relative positions against its equations, written out as loops, and against convolutions."""

import itertools

import pytest
import torch
from torch import nn

from attention import (
    ContentRelativeSelfAttention,
    LearnedRelativeSelfAttention,
    QuadraticSelfAttention,
    content_relative,
    quadratic,
    record_attention,
)
from attention.functional import plain


def score(operator, head, delta, query, key):
    """Score of a key at an offset `delta` = key - query, for a batch of queries and keys (B, C)."""
    if isinstance(operator, QuadraticSelfAttention):
        offset = torch.stack([delta[axis] - operator.centres[head, axis] for axis in (0, 1)])
        spread = operator.spreads[head]
        if operator.covariance == "isotropic":
            return -(spread**2) / 2 * (offset**2).sum() + 0 * query[:, 0]
        return -((spread.T @ offset) ** 2).sum() / 2 + 0 * query[:, 0]
    row, column = (max(-operator.size + 1, min(operator.size - 1, each)) + operator.size - 1 for each in delta)
    total = (operator.row_heads.weight[head] * operator.row_encodings.weight[row]).sum()
    total = total + (operator.column_heads.weight[head] * operator.column_encodings.weight[column]).sum()
    if isinstance(operator, ContentRelativeSelfAttention):
        own = slice(head * operator.in_channels, (head + 1) * operator.in_channels)
        q = query @ operator.query.weight[own].T + operator.query.bias[own]
        k = key @ operator.key.weight[own].T + operator.key.bias[own]
        return total + (q * k).sum(1) / operator.in_channels**0.5
    return total + 0 * query[:, 0]


def reference(operator, x):
    """One softmax over all keys for each query and head, on the map with zeros around it where they are keys."""
    margin = getattr(operator, "zero_padding", 0)
    rows, columns = x.shape[2:]
    padded = nn.functional.pad(x, (margin,) * 4)
    keys = list(itertools.product(range(rows + 2 * margin), range(columns + 2 * margin)))
    out = []
    for i in range(0, rows, operator.stride):
        for j in range(0, columns, operator.stride):
            heads = []
            for head in range(operator.heads):
                scores = [
                    score(operator, head, (a - margin - i, b - margin - j), x[:, :, i, j], padded[:, :, a, b])
                    for a, b in keys
                ]
                weights = torch.stack(scores, 1)
                weights = torch.exp(weights - weights.max(1, keepdim=True).values)
                weights = weights / weights.sum(1, keepdim=True)
                heads.append(sum(weights[:, k : k + 1] * padded[:, :, a, b] for k, (a, b) in enumerate(keys)))
            out.append(torch.cat(heads, 1) @ operator.value.weight.T + operator.value.bias)
    return torch.stack(out, 2).unflatten(2, (-(-rows // operator.stride), -(-columns // operator.stride)))


MAKERS = {
    "isotropic": lambda stride: QuadraticSelfAttention(2, 3, stride, 2),
    "zeros": lambda stride: QuadraticSelfAttention(2, 3, stride, 2, zero_padding=1),
    "full": lambda stride: QuadraticSelfAttention(2, 3, stride, 2, "full"),
    "full-zeros": lambda stride: QuadraticSelfAttention(2, 3, stride, 2, "full", 1),
    "learned": lambda stride: LearnedRelativeSelfAttention(2, 3, stride, 2, size=3, encoding_channels=4),
    "content": lambda stride: ContentRelativeSelfAttention(2, 3, stride, 2, size=3),
}


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", MAKERS)
def test_equals_the_literal_softmax_forward_and_backward(name, stride, size, agree):
    """The proof that isotropic Gaussians and learned encodings may be summed by rows and then by columns."""
    torch.manual_seed(0)
    agree(MAKERS[name](stride), reference, torch.randn(2, 2, *size))


@pytest.mark.parametrize("stride", [1, 2])
def test_content_without_stored_weights_is_the_same(stride, monkeypatch, agree):
    monkeypatch.setattr(plain, "STORED_WEIGHTS", 2 * 2 * -(-5 // stride) * -(-4 // stride) * 5 * 4 - 1)  # one too few
    torch.manual_seed(0)
    monkeypatch.setattr(content_relative, "precise_logits", None)  # of stored weights only
    agree(MAKERS["content"](stride), reference, torch.randn(2, 2, 5, 4))


def test_a_full_covariance_is_summed_in_groups_of_rows(monkeypatch, agree):
    monkeypatch.setattr(quadratic, "LITERAL_WEIGHTS", 2 * 2 * (2 * 4 * 4 * 5))  # two heads, two rows at a time
    torch.manual_seed(0)
    operator = QuadraticSelfAttention(2, 3, 1, 2, "full")
    agree(operator, reference, torch.randn(2, 2, 5, 4))


CONVOLUTIONS = [
    (side, stride, dilation, mode)
    for side in (1, 3, 5)
    for stride in (1, 2)
    for dilation in (1, 2)
    for mode in ("zeros", "replicate")
]


def equals_convolution(conv, sizes=((1, 1), (5, 7), (6, 4))):
    conv = conv.double()
    layer = QuadraticSelfAttention.from_conv(conv)
    for size in sizes:
        x = torch.randn(2, conv.in_channels, *size, dtype=torch.float64, requires_grad=True)
        expected, out = conv(x), layer(x)
        direction = torch.randn_like(expected)
        (gradient,) = torch.autograd.grad(out, x, direction)
        (expected_gradient,) = torch.autograd.grad(expected, x, direction)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("side", "stride", "dilation", "mode"), CONVOLUTIONS)
def test_expresses_convolutions(side, stride, dilation, mode):
    torch.manual_seed(0)
    padding = dilation * (side // 2)
    equals_convolution(nn.Conv2d(3, 4, side, stride, padding, dilation, padding_mode=mode))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, (3, 5), padding=(1, 2), groups=2, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="replicate"),
        nn.Conv2d(3, 4, 2, padding="same"),
        nn.Conv2d(3, 4, 4, padding="same", dilation=2, padding_mode="replicate"),
        nn.Conv2d(3, 4, (1, 2), padding="same"),
        nn.Conv2d(3, 4, 1, padding="valid"),
    ],
    ids=["oblong-groups", "depthwise", "even", "even-dilated", "row", "valid"],
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_expresses_other_convolutions(conv):
    torch.manual_seed(0)
    equals_convolution(conv)


@pytest.mark.parametrize(("side", "stride", "padding"), [(2, 2, 0), (4, 4, 0), (4, 2, 1), (3, 4, 0)])
@pytest.mark.parametrize("mode", ["zeros", "replicate"])
def test_expresses_convolutions_that_drop_the_last_window_only_where_sizes_divide(side, stride, padding, mode):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, side, stride, padding, padding_mode=mode)
    equals_convolution(conv, [(4, 8)])
    layer, x = QuadraticSelfAttention.from_conv(conv), torch.randn(1, 3, 7, 9, dtype=torch.float64)
    inner = conv(x)
    torch.testing.assert_close(layer(x)[:, :, : inner.shape[2], : inner.shape[3]], inner, rtol=0, atol=1e-10)


def test_sharpness_bounds_the_error():
    """The leak is about 4 exp(-alpha): measured with the published construction at 5, 10 and 20."""
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 3, padding=1, padding_mode="replicate").double()
    x = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    for alpha, bound in ((5.0, 5e-1), (10.0, 4e-3), (20.0, 2e-7), (46.0, 1e-13), (1000.0, 1e-13)):
        error = (QuadraticSelfAttention.from_conv(conv, alpha)(x) - conv(x)).abs().max()
        assert error < bound
        assert alpha > 20 or error > 4 * torch.exp(torch.tensor(-alpha)) / 100


def test_float32_is_exact_to_rounding_on_large_maps():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 2, 3, padding=1)
    x = torch.randn(1, 2, 3, 300)
    torch.testing.assert_close(QuadraticSelfAttention.from_conv(conv)(x), conv(x), rtol=1e-5, atol=1e-5)


def test_a_layer_from_a_convolution_keeps_its_dtype_and_mode():
    layer = QuadraticSelfAttention.from_conv(nn.Conv2d(2, 2, 3, padding=1).double().eval())
    assert layer.value.weight.dtype == layer.centres.dtype == torch.float64 and not layer.training
    assert layer.heads == 9 and layer.zero_padding == 1


def test_offsets_beyond_the_tables_use_their_ends(agree):
    torch.manual_seed(0)
    operator = LearnedRelativeSelfAttention(2, 3, heads=1, size=2)
    assert operator.row_encodings.weight.shape == (3, 2)
    agree(operator, reference, torch.randn(1, 2, 6, 2))


@pytest.mark.parametrize("name", MAKERS)
def test_recorded_weights_make_the_output(name):
    torch.manual_seed(0)
    operator = MAKERS[name](2).double()
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64)
    with record_attention(operator) as maps:
        out = operator(x)
    (key,) = maps[""]
    margin = getattr(operator, "zero_padding", 0)
    assert key.weights.shape == (2, 2, 3, 2, 5 + 2 * margin, 4 + 2 * margin)
    torch.testing.assert_close(key.weights.sum((4, 5)), torch.ones(2, 2, 3, 2, dtype=torch.float64))
    assert key.rows.tolist() == [list(range(-margin, 5 + margin))] * 3
    assert key.columns.tolist() == [list(range(-margin, 4 + margin))] * 2
    padded = nn.functional.pad(x, (margin,) * 4)
    attended = torch.einsum("bnijhw,bchw->bijnc", key.weights, padded).flatten(3)
    torch.testing.assert_close(operator.value(attended).permute(0, 3, 1, 2), out)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: QuadraticSelfAttention(400, 400), 12_086_844),
        (lambda: QuadraticSelfAttention(400, 400, covariance="full"), 12_087_006),
        (lambda: LearnedRelativeSelfAttention(400, 400), 12_278_682),
        (lambda: ContentRelativeSelfAttention(400, 400), 29_601_882),
    ],
    ids=["quadratic", "generalised", "learned", "content"],
)
def test_sizes_of_the_published_networks(make, expected):
    """Six BERT layers of width 400 on 2 x 2 pixels, hidden 512: one more linear layer follows each attention."""
    with torch.device("meta"):
        layers = [nn.Linear(12, 400), nn.Linear(400, 10)]
        for _ in range(6):
            layers += [make(), nn.Linear(400, 400), nn.LayerNorm(400)]
            layers += [nn.Linear(400, 512), nn.Linear(512, 400), nn.LayerNorm(400)]
    assert sum(value.numel() for layer in layers for value in layer.parameters()) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QuadraticSelfAttention(4, 4, heads=0), "heads=0"),
        (lambda: QuadraticSelfAttention(4, 4, covariance="diagonal"), "covariance='diagonal' .*isotropic, full"),
        (lambda: QuadraticSelfAttention(4, 4, zero_padding=-1), "zero_padding=-1"),
        (lambda: LearnedRelativeSelfAttention(4, 4, size=0), "size=0"),
        (lambda: ContentRelativeSelfAttention(4, 4, encoding_channels=-1), "encoding_channels=-1"),
        (
            lambda: QuadraticSelfAttention.from_conv(nn.Conv2d(4, 4, 3)),
            r"padding=\(0, 0\) .*kernel_size=\(3, 3\).*'same'",
        ),
        (lambda: QuadraticSelfAttention.from_conv(nn.Conv2d(4, 4, 2, padding=1)), "padding=.*half the kernel"),
        (lambda: QuadraticSelfAttention.from_conv(nn.Conv2d(4, 4, 3, (1, 2), 1)), r"stride=\(1, 2\) .*one stride"),
        (
            lambda: QuadraticSelfAttention.from_conv(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")),
            "padding_mode='circular' .*zeros or replicate",
        ),
        (lambda: QuadraticSelfAttention.from_conv(nn.Conv2d(4, 4, 1), 0.0), "sharpness=0.0 .*positive"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
