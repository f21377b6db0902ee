"""Squeeze-and-Excitation against its equation, written out as loops, and against timm."""

import math

import pytest
import torch
from timm.layers import SEModule

from attention import SqueezeExcitation, record_attention


def reference(operator, x):
    """Equations 2 to 4 of arXiv 1709.01507, one number at a time."""
    batch, channels, rows, columns = x.shape
    w1, w2 = operator.fc1.weight[:, :, 0, 0], operator.fc2.weight[:, :, 0, 0]
    out = torch.zeros_like(x)
    for b in range(batch):
        for i in range(rows):
            for j in range(columns):
                if operator.pooling == "avg":
                    squeezed = [x[b, c].sum() / (rows * columns) for c in range(channels)]
                elif operator.pooling == "max":
                    squeezed = [max(x[b, c].flatten(), key=torch.Tensor.item) for c in range(channels)]
                else:
                    squeezed = [x[b, c, i, j] for c in range(channels)]
                hidden = []
                for k in range(len(w1)):
                    total = sum(w1[k, c] * squeezed[c] for c in range(channels))
                    total = total + (0 if operator.fc1.bias is None else operator.fc1.bias[k])
                    ceiling = 6 if operator.hidden == "relu6" else math.inf
                    hidden.append(total if 0 < total < ceiling else total * 0 + (6 if total > 0 else 0))
                for c in range(channels):
                    score = sum(w2[c, k] * hidden[k] for k in range(len(w1)))
                    score = score + (0 if operator.fc2.bias is None else operator.fc2.bias[c])
                    if operator.gate == "sigmoid":
                        weight = 1 / (1 + torch.exp(-score))
                    elif operator.gate == "tanh":
                        weight = 1 - 2 / (torch.exp(2 * score) + 1)
                    else:
                        weight = score if score > 0 else score * 0
                    out[b, c, i, j] = x[b, c, i, j] * weight
    return out


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pooling": "max"},
        {"pooling": "none"},
        {"gate": "tanh"},
        {"gate": "relu"},
        {"hidden": "relu6", "bias": False},
    ],
    ids=str,
)
def test_equation_forward_and_backward(options, size, agree):
    torch.manual_seed(0)
    scale = 8 if options.get("hidden") == "relu6" else 1  # reaches the ceiling of ReLU6
    agree(SqueezeExcitation(5, 2, **options), reference, scale * torch.randn(2, 5, *size))


def test_equals_timm_with_copied_weights(same_function):
    ours, peer = SqueezeExcitation(80, 16), SEModule(80, rd_ratio=1 / 16, rd_divisor=1)
    peer.load_state_dict(ours.state_dict())
    same_function(ours, peer, torch.randn(2, 80, 9, 7))


def test_hidden_width_is_rounded_down():
    assert SqueezeExcitation(144, 24).fc1.weight.shape == (6, 144, 1, 1)
    assert SqueezeExcitation(70, 16).fc1.weight.shape == (4, 70, 1, 1)


def test_gate_starts_near_one_half():
    torch.manual_seed(0)
    operator, x = SqueezeExcitation(64), torch.randn(4, 64, 16, 16)
    torch.testing.assert_close(operator(x) / x, torch.full_like(x, 0.5), rtol=0, atol=0.1)


def test_output_ignores_where_things_are():
    operator, x = SqueezeExcitation(16, 4).double(), torch.randn(2, 16, 4, 5, dtype=torch.float64)
    order = torch.randperm(20)
    shuffled = x.flatten(2)[..., order].view_as(x)
    torch.testing.assert_close(operator(shuffled).flatten(2), operator(x).flatten(2)[..., order])


@pytest.mark.parametrize("options", [{}, {"pooling": "none"}, {"gate": "tanh"}], ids=str)
def test_recorded_weights_reproduce_the_output(options):
    torch.manual_seed(0)
    operator, x = SqueezeExcitation(16, 4, **options), torch.randn(2, 16, 5, 6)
    operator(x)  # records nothing
    with record_attention(operator) as maps:
        out = operator(x)
    (found,) = maps[""]
    assert found.name == "channel" and not found.weights.requires_grad
    assert found.weights.shape == (x.shape if options.get("pooling") == "none" else (2, 16, 1, 1))
    torch.testing.assert_close(out, x * found.weights)
