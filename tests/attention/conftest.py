"""Shared checks of attention operators."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

Reference = Callable[[nn.Module, Tensor], Tensor]


@pytest.fixture
def agree() -> Callable[[nn.Module, Reference, Tensor], None]:
    """Checks output and every gradient of an operator against a reference that shares its parameters."""

    def check(operator: nn.Module, reference: Reference, x: Tensor) -> None:
        operator = operator.double()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for value in operator.parameters():
                value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64))
            for value in operator.buffers():
                if value.is_floating_point():
                    value.copy_(torch.rand(value.shape, generator=generator, dtype=torch.float64) + 0.5)
        x = x.double().requires_grad_()
        expected = reference(operator, x)
        out = operator(x)
        direction = torch.randn(out.shape, generator=generator, dtype=torch.float64)
        leaves = [x, *operator.parameters()]
        gradients = torch.autograd.grad(out, leaves, direction)
        expected_gradients = torch.autograd.grad(expected, leaves, direction)
        torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
        for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)

    return check


@pytest.fixture
def same_function() -> Callable[[nn.Module, nn.Module, Tensor], None]:
    """Checks that two modules with equal weights give the same output and input gradient.

    In float64, where the order of a processor's sums is far below the tolerance; in float32 it is not.
    """

    def check(ours: nn.Module, peer: nn.Module, x: Tensor) -> None:
        x = x.double().requires_grad_()
        out, expected = (module.double()(x) for module in (ours, peer))
        torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
        direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        gradients = (torch.autograd.grad(values, x, direction) for values in (out, expected))
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)

    return check
