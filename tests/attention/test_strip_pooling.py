"""Strip pooling against the equations of arXiv 2003.13328, one number at a time."""

import pytest
import torch

from attention import StripPooling, record_attention


def normalised(norm, x):
    """Batch normalisation of (B, C, L) in training or evaluation."""
    centre, variance = norm.running_mean.view(1, -1, 1), norm.running_var.view(1, -1, 1)
    if norm.training:
        centre = x.mean((0, 2), keepdim=True)
        variance = (x - centre).square().mean((0, 2), keepdim=True)
    x = (x - centre) / torch.sqrt(variance + norm.eps)
    return x * norm.weight.view(1, -1, 1) + norm.bias.view(1, -1, 1)


def convolved(weight, x):
    """1-D convolution of (B, C, L) by (C', C, k) with zeros beyond the ends."""
    length, reach = x.shape[2], weight.shape[2] // 2
    places = []
    for i in range(length):
        total = x.new_zeros(len(x), len(weight))
        for t in range(weight.shape[2]):
            if 0 <= i + t - reach < length:
                total = total + x[:, :, i + t - reach] @ weight[:, :, t].T
        places.append(total)
    return torch.stack(places, 2)


def reference(operator, x):
    height, width = x.shape[2:]
    rows = torch.stack([sum(x[:, :, i, j] for j in range(width)) / width for i in range(height)], 2)
    columns = torch.stack([sum(x[:, :, i, j] for i in range(height)) / height for j in range(width)], 2)
    rows = normalised(operator.bn_rows, convolved(operator.conv_rows.weight[..., 0], rows))
    columns = normalised(operator.bn_columns, convolved(operator.conv_columns.weight[:, :, 0], columns))
    lines = []
    for i in range(height):
        line = []
        for j in range(width):
            both = torch.clamp(rows[:, :, i] + columns[:, :, j], min=0)
            score = both @ operator.conv.weight[:, :, 0, 0].T + operator.conv.bias
            line.append(x[:, :, i, j] / (1 + torch.exp(-score)))
        lines.append(torch.stack(line, 2))
    return torch.stack(lines, 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (5, 3)])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_equation_forward_and_backward(training, size, agree):
    torch.manual_seed(0)
    agree(StripPooling(5).train(training), reference, torch.randn(3, 5, *size))


def test_longer_kernels(agree):
    torch.manual_seed(0)
    agree(StripPooling(4, 5), reference, torch.randn(2, 4, 4, 6))


@pytest.mark.parametrize(("channels", "expected"), [(64, 28_992), (512, 1_837_568)])
def test_size(channels, expected):
    assert sum(p.numel() for p in StripPooling(channels).parameters()) == expected


def test_a_position_sees_its_row_and_its_column_and_their_neighbours():
    torch.manual_seed(0)
    operator = StripPooling(4).double().eval()
    x = torch.randn(1, 4, 9, 8, dtype=torch.float64, requires_grad=True)
    torch.nn.init.constant_(operator.bn_rows.bias, 50.0)  # nothing is cut off
    (gradient,) = torch.autograd.grad(operator(x)[0, :, 4, 2].sum(), x)
    seen = gradient.abs().sum(1)[0] > 0
    expected = torch.zeros(9, 8, dtype=torch.bool)
    expected[3:6], expected[:, 1:4] = True, True
    assert torch.equal(seen, expected)


def test_map_reproduces_the_output():
    torch.manual_seed(0)
    operator, x = StripPooling(8), torch.randn(2, 8, 5, 3)
    with record_attention(operator) as maps:
        out = operator(x)
    (recorded,) = maps[""]
    assert recorded.name == "cell" and recorded.weights.shape == x.shape
    torch.testing.assert_close(x * recorded.weights, out)


def test_wrong_arguments_are_named_with_a_remedy():
    with pytest.raises(ValueError, match=r"kernel_size=2 .*odd"):
        StripPooling(8, 2)
