"""Learn to pay attention as a refinement, against its equations as loops and against the pooling form."""

import pytest
import torch
from torch import nn

from attention import LearnToPayAttention, LearnToPayGate, record_attention


def reference(operator, x):
    batch, channels, height, width = x.shape
    cells = [(i, j) for i in range(height) for j in range(width)]
    out = torch.zeros_like(x)
    for b in range(batch):
        if operator.compatibility == "dot_product":
            mean = sum(x[b, :, i, j] for i, j in cells) / len(cells)
            towards = operator.descriptor.weight @ mean + operator.descriptor.bias
        else:
            towards = operator.towards
        scores = [sum(towards[c] * x[b, c, i, j] for c in range(channels)) for i, j in cells]
        highest = max(score.item() for score in scores)
        powers = [torch.exp(score - highest) for score in scores]
        for power, (i, j) in zip(powers, cells, strict=True):
            out[b, :, i, j] = x[b, :, i, j] * len(cells) * power / sum(powers)
    return out


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("compatibility", ["dot_product", "parametrised"])
def test_equation_forward_and_backward(compatibility, size, agree):
    torch.manual_seed(0)
    agree(LearnToPayGate(4, compatibility), reference, torch.randn(2, 4, *size))


@pytest.mark.parametrize("compatibility", ["dot_product", "parametrised"])
def test_the_mean_is_what_the_pooling_form_pools(compatibility):
    torch.manual_seed(0)
    gate, level = LearnToPayGate(5, compatibility).double(), LearnToPayAttention(5, 5, compatibility).double()
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    if compatibility == "dot_product":
        nn.init.normal_(gate.descriptor.weight)
        g = gate.descriptor(x.mean((2, 3)))
    else:
        g = torch.randn(2, 5, dtype=torch.float64)  # it cancels
        with torch.no_grad():
            gate.towards.copy_(level.score.weight[0])
    torch.testing.assert_close(gate(x).mean((2, 3)), level(x, g), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("compatibility", ["dot_product", "parametrised"])
def test_a_fresh_gate_is_the_identity_and_learns(compatibility):
    torch.manual_seed(0)
    x, operator = torch.randn(2, 8, 4, 2), LearnToPayGate(8, compatibility)
    torch.testing.assert_close(operator(x), x)
    operator(x).square().sum().backward()
    assert all(p.grad.any() for p in operator.parameters())


def test_map_reproduces_the_output():
    torch.manual_seed(0)
    operator, x = LearnToPayGate(8), torch.randn(2, 8, 5, 3)
    nn.init.normal_(operator.descriptor.weight)
    with record_attention(operator) as maps:
        out = operator(x)
    (recorded,) = maps[""]
    assert recorded.name == "position" and recorded.weights.shape == (2, 1, 5, 3)
    torch.testing.assert_close(recorded.weights.mean((2, 3)), torch.ones(2, 1))
    torch.testing.assert_close(x * recorded.weights, out)


def test_wrong_arguments_are_named_with_a_remedy():
    with pytest.raises(ValueError, match=r"compatibility='cosine' .*dot_product, parametrised"):
        LearnToPayGate(8, "cosine")
