"""The memory-saving half of an MLP against the plain expression."""

import pytest
import torch
from torch.nn import functional as F

from backbones.gelu_linear import gelu_linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 5, 6)])
def test_output_and_gradients_are_those_of_the_plain_expression(shape, bias):
    torch.manual_seed(0)
    leaves = [torch.randn(shape), torch.randn(7, 6), *([torch.randn(7)] if bias else [])]
    leaves = [leaf.double().requires_grad_() for leaf in leaves]
    x, weight, offset = (*leaves, None)[:3]
    out, expected = gelu_linear(x, weight, offset), F.linear(F.gelu(x), weight, offset)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    direction = torch.randn_like(out)
    for ours, theirs in zip(
        torch.autograd.grad(out, leaves, direction), torch.autograd.grad(expected, leaves, direction), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_the_activation_is_not_kept():
    kept = []
    x, weight = torch.randn(5, 6, requires_grad=True), torch.randn(7, 6, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda t: t):
        gelu_linear(x, weight, None)
    assert kept == [x.shape, weight.shape]


def test_autocast_takes_the_plain_expression():
    x, weight = torch.randn(5, 6, requires_grad=True), torch.randn(7, 6, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gelu_linear(x, weight, None).dtype == torch.bfloat16
