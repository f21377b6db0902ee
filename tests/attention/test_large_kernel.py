"""Large kernel attention against its equations, written out as loops."""

import math

import pytest
import torch

from attention import LargeKernelAttention, record_attention


def depthwise(x, conv):
    """A depth-wise convolution by shifted products; zeros around the map."""
    (size, _), (distance, _) = conv.kernel_size, conv.dilation
    rows, columns = x.shape[2:]
    out = torch.zeros_like(x)
    for i in range(rows):
        for j in range(columns):
            total = conv.bias
            for a in range(size):
                for b in range(size):
                    row, column = i + (a - size // 2) * distance, j + (b - size // 2) * distance
                    if 0 <= row < rows and 0 <= column < columns:
                        total = total + conv.weight[:, 0, a, b] * x[:, :, row, column]
            out[:, :, i, j] = total
    return out


def pointwise(x, conv):
    return torch.einsum("dc,bcij->bdij", conv.weight[:, :, 0, 0], x) + conv.bias[:, None, None]


def reference(operator, x):
    """Equations 1 and 2 of arXiv 2202.09741, and figure 3 around them."""
    z = x
    if operator.before is not None:
        z = pointwise(x, operator.before)
        z = z * (1 + torch.erf(z / math.sqrt(2))) / 2
    attended = z * pointwise(depthwise(depthwise(z, operator.near), operator.far), operator.mix)
    return attended if operator.behind is None else x + pointwise(attended, operator.behind)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (11, 12)])
@pytest.mark.parametrize("options", [{}, {"projections": True}, {"kernel_size": 6, "dilation": 2}], ids=str)
def test_equation_forward_and_backward(options, size, agree):
    torch.manual_seed(0)
    agree(LargeKernelAttention(3, **options), reference, torch.randn(2, 3, *size))


def test_parts_are_those_of_the_paper():
    operator = LargeKernelAttention(8)
    assert (operator.near.kernel_size, operator.near.padding) == ((5, 5), (2, 2))
    assert (operator.far.kernel_size, operator.far.dilation, operator.far.padding) == ((7, 7), (3, 3), (9, 9))
    assert operator.near.groups == operator.far.groups == 8 and operator.mix.groups == 1


@pytest.mark.parametrize(("channels", "expected"), [(32, 3_488), (64, 9_024), (160, 37_920), (256, 85_248)])
def test_sizes_of_the_modules_of_van(channels, expected):
    with torch.device("meta"):
        assert sum(p.numel() for p in LargeKernelAttention(channels).parameters()) == expected
        projected = LargeKernelAttention(channels, projections=True)
        assert sum(p.numel() for p in projected.parameters()) == expected + 2 * (channels**2 + channels)


def test_sees_twenty_three_cells_a_side():
    """Seven taps three cells apart reach nine cells to either side, and the five cells around each two more."""
    operator = LargeKernelAttention(1).double()
    for layer in (operator.near, operator.far, operator.mix):
        torch.nn.init.ones_(layer.weight)
    x = torch.ones(1, 1, 31, 31, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(operator(x)[0, 0, 15, 15], x)
    seen = gradient[0, 0].nonzero()
    assert (seen.min(0).values.tolist(), seen.max(0).values.tolist()) == ([4, 4], [26, 26])
    assert len(seen) == 23**2


def test_starts_as_published():
    torch.manual_seed(0)
    operator = LargeKernelAttention(64, projections=True)
    for layer, variance in ((operator.near, 2 / 25), (operator.far, 2 / 49), (operator.mix, 2 / 64)):
        assert layer.weight.std().item() == pytest.approx(variance**0.5, rel=0.1) and not layer.bias.any()


@pytest.mark.parametrize("projections", [False, True])
def test_recorded_weights_reproduce_the_output(projections):
    torch.manual_seed(0)
    operator, x = LargeKernelAttention(16, projections=projections), torch.randn(2, 16, 5, 6)
    with record_attention(operator) as maps:
        out = operator(x)
    (found,) = maps[""]
    assert found.name == "cell" and found.weights.shape == x.shape
    if projections:
        expected = x + operator.behind(torch.nn.functional.gelu(operator.before(x)) * found.weights)
    else:
        expected = x * found.weights
    torch.testing.assert_close(out, expected)


def test_wrong_arguments_are_named_with_a_remedy():
    with pytest.raises(ValueError, match=r"kernel_size=10 makes 4 cells at dilation=3, .*give 9 or 15"):
        LargeKernelAttention(16, 10)
    for options in ({"kernel_size": 0}, {"dilation": 0}):
        with pytest.raises(ValueError, match=r"=0 .*at least 1"):
            LargeKernelAttention(16, **options)
