"""The static gate against its equation, and as the control that it is: of how networks start, and of what decays."""

import pytest
import torch

from attention import IdentityStart, SqueezeExcitation, StaticGate, record_attention
from tasks.optimization import ParameterRules


def reference(operator, x):
    out = torch.zeros_like(x)
    for c in range(x.shape[1]):
        out[:, c] = x[:, c] / (1 + torch.exp(-operator.scores[c]))
    return out


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
def test_equation_forward_and_backward(size, agree):
    torch.manual_seed(0)
    agree(StaticGate(5), reference, torch.randn(2, 5, *size))


def test_starts_where_squeeze_and_excitation_starts():
    torch.manual_seed(0)
    x = torch.randn(4, 64, 9, 7)
    assert torch.equal(StaticGate(64)(x), x / 2)
    torch.testing.assert_close(SqueezeExcitation(64)(x), x / 2, rtol=0.06, atol=0)


def test_the_gate_is_the_same_for_every_image():
    operator, x = StaticGate(3), torch.randn(2, 3, 5, 4)
    torch.nn.init.normal_(operator.scores)
    with record_attention(operator) as maps:
        out = operator(x)
    (found,) = maps[""]
    assert found.name == "channel" and found.weights.shape == (2, 3, 1, 1)
    assert torch.equal(found.weights[0], found.weights[1]) and found.heat_map(5, 4).shape == (2, 5, 4)
    torch.testing.assert_close(out, x * found.weights)


@pytest.mark.parametrize("decays", [True, False])
def test_its_numbers_decay_where_the_bias_of_squeeze_and_excitation_does(decays):
    model = torch.nn.ModuleList([StaticGate(8), SqueezeExcitation(8, 2), IdentityStart(8, StaticGate)])
    rules = ParameterRules(decay_norms_and_biases=decays)
    optimizer = rules.build(lambda groups: torch.optim.SGD(groups, 0.1, weight_decay=0.5), model, 16)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    ours, theirs, wrapped = model
    for parameter in (ours.scores, theirs.fc2.bias, wrapped.operator.scores):
        assert decay[id(parameter)] == (0.5 if decays else 0)
    assert decay[id(theirs.fc2.weight)] == 0.5 and decay[id(wrapped.alpha)] == 0
