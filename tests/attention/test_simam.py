"""SimAM against its equations, written out as loops."""

import pytest
import torch

from attention import SimAM, record_attention


def reference(operator, x):
    """Equations 5 and 6 of the paper with its listing's divisor, one number at a time."""
    batch, channels, rows, columns = x.shape
    cells = [(i, j) for i in range(rows) for j in range(columns)]
    out = torch.zeros_like(x)
    for b in range(batch):
        for c in range(channels):
            mean = sum(x[b, c, i, j] for i, j in cells) / len(cells)
            variance = sum((x[b, c, i, j] - mean) ** 2 for i, j in cells) / max(len(cells) - 1, 1)
            for i, j in cells:
                t = x[b, c, i, j]
                energy = 4 * (variance + operator.energy_lambda)
                energy = energy / ((t - mean) ** 2 + 2 * variance + 2 * operator.energy_lambda)
                out[b, c, i, j] = t / (1 + torch.exp(-1 / energy))
    return out


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (1, 7), (5, 3)])
@pytest.mark.parametrize("energy_lambda", [1e-4, 0.5])
def test_equation_forward_and_backward(energy_lambda, size, agree):
    torch.manual_seed(0)
    agree(SimAM(3, energy_lambda), reference, torch.randn(2, 3, *size))


def test_divides_as_the_variance_of_a_sample_does():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    variance, mean = torch.var_mean(x, (2, 3), keepdim=True)  # divides by 4 * 5 - 1
    gate = torch.sigmoid((x - mean) ** 2 / (4 * (variance + 1e-4)) + 0.5)
    torch.testing.assert_close(SimAM(3)(x), x * gate)


def test_a_single_cell_gets_the_gate_of_one_half():
    x = 1e4 * torch.randn(2, 3, 1, 1, requires_grad=True)
    out = SimAM(3)(x)
    expected = torch.sigmoid(torch.tensor(0.5))
    torch.testing.assert_close(out, x * expected)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient, expected.expand_as(x))


def test_a_constant_channel_is_finite():
    x = torch.full((1, 2, 4, 3), 7.0)
    torch.testing.assert_close(SimAM(2)(x), x * torch.sigmoid(torch.tensor(0.5)))


def test_cells_that_stand_out_get_more():
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 2] = -4
    operator = SimAM(1)
    with record_attention(operator) as maps:
        operator(x)
    assert maps[""][0].weights.argmax() == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_of_half_precision_do_not_overflow(dtype):
    x = (300 * torch.randn(2, 3, 20, 30)).to(dtype)  # squares of float16 end at 65504
    out = SimAM(3)(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), SimAM(3)(x.float()), rtol=1e-2, atol=1e-2)


def test_recorded_weights_reproduce_the_output():
    operator, x = SimAM(16), torch.randn(2, 16, 5, 6)
    with record_attention(operator) as maps:
        out = operator(x)
    (found,) = maps[""]
    assert found.name == "cell" and found.weights.shape == x.shape
    torch.testing.assert_close(out, x * found.weights)


def test_wrong_arguments_are_named_with_a_remedy():
    for value in (0, -1e-4):
        with pytest.raises(ValueError, match=f"energy_lambda={value} .*positive"):
            SimAM(16, value)
