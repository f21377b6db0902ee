"""Second-order pooling against its equations, written out as loops."""

import pytest
import torch

from attention import SecondOrderPooling, record_attention


def relu(x):
    return torch.where(x > 0, x, x * 0)


def normalised(x, norm):
    """Batch normalisation of `x` (B, m, N), by m."""
    mean, variance = norm.running_mean[:, None], norm.running_var[:, None]
    if norm.training:
        mean = x.mean((0, 2), keepdim=True)
        variance = ((x - mean) ** 2).mean((0, 2), keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * norm.weight[:, None] + norm.bias[:, None]


def covariances(z):
    """Of the rows of `z` (m, N), one number at a time."""
    width, cells = z.shape
    means = [sum(row) / cells for row in z]
    return torch.stack(
        [torch.stack([sum((z[a] - means[a]) * (z[b] - means[b])) / cells for b in range(width)]) for a in range(width)]
    )


def reference(operator, x):
    """Section 3.2 of arXiv 1811.12006 with the norms of the authors' code."""
    reduce, row, fc = operator.reduce, operator.row, operator.fc
    z = torch.einsum("mc,bcn->bmn", reduce.weight[:, :, 0, 0], relu(x).flatten(2)) + reduce.bias[:, None]
    z = relu(normalised(z, operator.reduce_norm))
    table = normalised(torch.stack([covariances(image) for image in z]), operator.row_norm)
    out = torch.zeros_like(x)
    width = table.shape[1]
    for b in range(len(x)):
        numbers = [
            sum(row.weight[4 * i + k, 0, j, 0] * table[b, i, j] for j in range(width)) + row.bias[4 * i + k]
            for i in range(width)
            for k in range(4)
        ]
        for c in range(x.shape[1]):
            score = sum(fc.weight[c, n, 0, 0] * number for n, number in enumerate(numbers)) + fc.bias[c]
            out[b, c] = x[b, c] / (1 + torch.exp(-score))
    return out


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("width", [1, 3])
def test_equation_forward_and_backward(width, training, size, agree):
    torch.manual_seed(0)
    agree(SecondOrderPooling(4, width).train(training), reference, torch.randn(3, 4, *size))


@pytest.mark.parametrize(("channels", "expected"), [(256, 230_784), (2048, 1_379_456)])
def test_sizes_of_published_modules(channels, expected):
    """5 C m + 4 m^2 + C + 9 m with m = 128."""
    with torch.device("meta"):
        assert sum(p.numel() for p in SecondOrderPooling(channels).parameters()) == expected


def test_the_level_of_a_channel_does_not_matter_behind_the_relu():
    torch.manual_seed(0)
    operator, x = SecondOrderPooling(6, 4).double().eval(), torch.rand(2, 6, 5, 4, dtype=torch.float64)
    torch.nn.init.constant_(operator.reduce_norm.bias, 50)  # nothing is cut off
    torch.testing.assert_close(operator(x + 3) / (x + 3), operator(x) / x)


def test_half_precision_keeps_small_covariances():
    torch.manual_seed(0)
    operator, x = SecondOrderPooling(8, 4).eval(), torch.rand(2, 8, 20, 30)
    torch.nn.init.constant_(operator.reduce_norm.bias, 50)
    expected = operator(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = operator(x)
    torch.testing.assert_close(out, expected, rtol=2e-2, atol=2e-2)


def test_recorded_weights_reproduce_the_output():
    torch.manual_seed(0)
    operator, x = SecondOrderPooling(16, 5), torch.randn(2, 16, 5, 6)
    with record_attention(operator) as maps:
        out = operator(x)
    (found,) = maps[""]
    assert found.name == "channel" and found.weights.shape == (2, 16, 1, 1)
    torch.testing.assert_close(out, x * found.weights)


def test_wrong_arguments_are_named_with_a_remedy():
    with pytest.raises(ValueError, match=r"width=0 .*at least 1"):
        SecondOrderPooling(16, 0)
