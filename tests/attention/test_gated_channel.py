"""The gated channel transformation against its equations, written out as loops."""

import pytest
import torch

from attention import GatedChannelTransformation, IdentityStart, record_attention


def reference(operator, x):
    """Equations 2 to 4 of arXiv 1909.11519, with the means of the authors' code, one number at a time."""
    batch, channels, rows, columns = x.shape
    out = torch.zeros_like(x)
    for b in range(batch):
        scores = []
        for c in range(channels):
            cells = [x[b, c, i, j] for i in range(rows) for j in range(columns)]
            if operator.norm == "l2":
                norm = torch.sqrt(sum(cell * cell for cell in cells) + operator.epsilon)
            else:
                norm = sum(cell if cell > 0 else -cell for cell in cells)
            scores.append(operator.alpha[c] * norm)
        if operator.norm == "l2":
            scale = torch.sqrt(sum(score * score for score in scores) / channels + operator.epsilon)
        else:
            scale = sum(score if score > 0 else -score for score in scores) / channels + operator.epsilon
        for c in range(channels):
            power = torch.exp(2 * (operator.gamma[c] * scores[c] / scale + operator.beta[c]))
            out[b, c] = x[b, c] * (1 + (power - 1) / (power + 1))
    return out


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize(("norm", "epsilon"), [("l2", 1e-5), ("l2", 0.1), ("l1", 1e-5), ("l1", 0.1)])
def test_equation_forward_and_backward(norm, epsilon, size, agree):
    torch.manual_seed(0)
    agree(GatedChannelTransformation(5, norm, epsilon), reference, torch.randn(2, 5, *size))


def test_is_the_equation_of_the_paper_but_for_a_multiple_of_epsilon():
    torch.manual_seed(0)
    operator, x = GatedChannelTransformation(6).double(), torch.randn(2, 6, 4, 5, dtype=torch.float64)
    for value in operator.parameters():
        torch.nn.init.normal_(value)
    alpha, gamma, beta = (value.view(1, 6, 1, 1) for value in operator.parameters())
    scores = alpha * torch.sqrt((x**2).sum((2, 3), keepdim=True) + 1e-5)
    normalised = 6**0.5 * scores / torch.sqrt((scores**2).sum(1, keepdim=True) + 6 * 1e-5)
    torch.testing.assert_close(operator(x), x * (1 + torch.tanh(gamma * normalised + beta)))


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_starts_as_the_identity_and_learns(norm):
    torch.manual_seed(0)
    operator, x = GatedChannelTransformation(8, norm), torch.randn(2, 8, 5, 6)
    assert [value.tolist() for value in operator.parameters()] == [[1.0] * 8, [0.0] * 8, [0.0] * 8]
    assert operator.starts_as_identity and torch.equal(operator(x), x)
    operator(x).square().sum().backward()
    assert operator.gamma.grad.all() and operator.beta.grad.all()
    assert IdentityStart(8, GatedChannelTransformation).alpha.item() == 1


def test_scale_of_the_map_does_not_matter():
    torch.manual_seed(0)
    operator, x = GatedChannelTransformation(8, epsilon=1e-12).double(), torch.randn(2, 8, 5, 6, dtype=torch.float64)
    for value in operator.parameters():
        torch.nn.init.normal_(value)
    torch.testing.assert_close(operator(1000 * x), 1000 * operator(x))


def test_sums_of_half_precision_do_not_overflow():
    for norm in ("l2", "l1"):
        operator, x = GatedChannelTransformation(4, norm), (300 * torch.randn(2, 4, 40, 50)).half()
        for value in operator.parameters():
            torch.nn.init.normal_(value)
        out = operator(x)
        assert out.dtype == torch.float16
        torch.testing.assert_close(out.float(), operator(x.float()), rtol=3e-3, atol=3e-3)


def test_three_numbers_a_channel():
    assert sum(value.numel() for value in GatedChannelTransformation(256).parameters()) == 768


def test_recorded_weights_reproduce_the_output():
    operator, x = GatedChannelTransformation(16), torch.randn(2, 16, 5, 6)
    torch.nn.init.normal_(operator.gamma)
    with record_attention(operator) as maps:
        out = operator(x)
    (found,) = maps[""]
    assert found.name == "channel" and found.weights.shape == (2, 16, 1, 1)
    torch.testing.assert_close(out, x * found.weights)


def test_wrong_arguments_are_named_with_a_remedy():
    with pytest.raises(ValueError, match=r"norm='l3' .*l2, l1"):
        GatedChannelTransformation(16, "l3")
    with pytest.raises(ValueError, match=r"epsilon=0 .*positive"):
        GatedChannelTransformation(16, epsilon=0)
