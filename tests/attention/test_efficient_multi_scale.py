"""Efficient multi-scale attention against its equations, written out group by group."""

import pytest
import torch

from attention import EfficientMultiScaleAttention, record_attention


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def softmax(values):
    powers = [torch.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def convolved(x, conv):
    """A 3x3 convolution of `x` (m, H, W) by shifted products; zeros around the map."""
    rows, columns = x.shape[1:]
    out = []
    for i in range(rows):
        for j in range(columns):
            total = conv.bias
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if 0 <= i + di < rows and 0 <= j + dj < columns:
                        total = total + conv.weight[:, :, di + 1, dj + 1] @ x[:, i + di, j + dj]
            out.append(total)
    return torch.stack(out, 1).view(-1, rows, columns)


def average(plane):
    return sum(cell for row in plane for cell in row) / plane.numel()


def branches(operator, x):
    """p and q of a group `x` (m, H, W), section 3.2 of arXiv 2305.13563."""
    rows, columns = x.shape[1:]
    weight, bias = operator.conv1.weight[:, :, 0, 0], operator.conv1.bias
    of_rows = [weight @ (sum(x[:, i, j] for j in range(columns)) / columns) + bias for i in range(rows)]
    of_columns = [weight @ (sum(x[:, i, j] for i in range(rows)) / rows) + bias for j in range(columns)]
    p = torch.zeros_like(x)
    for i in range(rows):
        for j in range(columns):
            p[:, i, j] = x[:, i, j] * sigmoid(of_rows[i]) * sigmoid(of_columns[j])
    planes = []
    for c, plane in enumerate(p):
        mean = average(plane)
        variance = average((plane - mean) ** 2)
        planes.append((plane - mean) / torch.sqrt(variance + 1e-5) * operator.norm.weight[c] + operator.norm.bias[c])
    return torch.stack(planes), convolved(x, operator.conv3)


def reference(operator, x):
    out = []
    for image in x:
        for group in image.chunk(operator.groups):
            p, q = branches(operator, group)
            of_p, of_q = softmax([average(plane) for plane in p]), softmax([average(plane) for plane in q])
            scores = sum(a * plane for a, plane in zip(of_p, q, strict=True))
            scores = scores + sum(a * plane for a, plane in zip(of_q, p, strict=True))
            out.append(group * sigmoid(scores))
    return torch.cat(out).view(x.shape)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize(("channels", "groups"), [(6, 2), (3, 1), (4, 4)])
def test_equation_forward_and_backward(channels, groups, size, agree):
    torch.manual_seed(0)
    agree(EfficientMultiScaleAttention(channels, groups), reference, torch.randn(2, channels, *size))


def test_averages_of_the_first_branch_are_the_biases_of_its_norm():
    torch.manual_seed(0)
    operator = EfficientMultiScaleAttention(6, 1).double()
    torch.nn.init.normal_(operator.norm.bias)
    p, _ = branches(operator, torch.randn(6, 5, 4, dtype=torch.float64))
    torch.testing.assert_close(torch.stack([average(plane) for plane in p]), operator.norm.bias)


@pytest.mark.parametrize(("channels", "expected"), [(256, 672), (512, 2_624), (1024, 10_368), (2048, 41_216)])
def test_sizes_of_the_modules_of_resnet50(channels, expected):
    with torch.device("meta"):
        assert sum(p.numel() for p in EfficientMultiScaleAttention(channels).parameters()) == expected


def test_groups_do_not_see_each_other():
    torch.manual_seed(0)
    operator, x = EfficientMultiScaleAttention(8, 2).double(), torch.randn(1, 8, 5, 4, dtype=torch.float64)
    other = torch.cat([x[:, :4], torch.randn_like(x[:, 4:])], 1)
    torch.testing.assert_close(operator(other)[:, :4], operator(x)[:, :4])
    swapped = torch.cat([x[:, 4:], x[:, :4]], 1)
    torch.testing.assert_close(operator(swapped)[:, 4:], operator(x)[:, :4])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_recorded_weights_reproduce_the_output(memory_format):
    torch.manual_seed(0)
    operator, x = EfficientMultiScaleAttention(16, 4), torch.randn(2, 16, 5, 6).to(memory_format=memory_format)
    with record_attention(operator) as maps:
        out = operator(x)
    (found,) = maps[""]
    assert found.name == "position" and found.weights.shape == x.shape
    assert torch.equal(found.weights[:, 0], found.weights[:, 3]) and (found.weights[:, 0] != found.weights[:, 4]).all()
    torch.testing.assert_close(out, x * found.weights)


def test_wrong_arguments_are_named_with_a_remedy():
    with pytest.raises(ValueError, match=r"channels=16 is not a multiple of groups=32"):
        EfficientMultiScaleAttention(16)
    with pytest.raises(ValueError, match=r"groups=0 .*at least 1"):
        EfficientMultiScaleAttention(16, 0)
