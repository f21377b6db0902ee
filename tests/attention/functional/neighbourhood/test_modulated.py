"""Modulated neighbourhood sums against their definition, in double and in half precision, and their derivatives."""

import pytest
import torch
from torch.nn import functional as F

from attention.functional.neighbourhood import modulated_sum


def reference(weights, values, kernels, stride=1, dilation=1):
    """From k k unfolded copies of the map, all at once."""
    batch, rows, columns, heads, cells = weights.shape
    side = round(cells**0.5)
    reach = dilation * (side // 2)
    flat = values.permute(0, 3, 4, 1, 2).flatten(1, 2)
    copies = F.unfold(flat, side, dilation, reach, stride).view(batch, heads, -1, cells, rows, columns)
    return torch.einsum("bijht,hct,bhctij->bijhc", weights, kernels, copies)


def leaves(rows, columns, stride=1, heads=2, channels=3, side=3):
    """Weights, values and kernels whose products are mostly positive, so that sums grow."""
    torch.manual_seed(0)
    queries = (-(-rows // stride), -(-columns // stride))
    weights = torch.rand(2, *queries, heads, side**2, dtype=torch.float64)
    values = torch.rand(2, rows, columns, heads, channels, dtype=torch.float64)
    kernels = torch.rand(heads, channels, side**2, dtype=torch.float64)
    return [value.requires_grad_() for value in (weights, values, kernels)]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 5)])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_sums_and_gradients(stride, dilation, size):
    given = leaves(*size, stride)
    found, expected = modulated_sum(*given, stride, dilation), reference(*given, stride, dilation)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    direction = torch.randn_like(expected)
    gradients = [torch.autograd.grad(out, given, direction) for out in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_second_derivatives_are_those_of_differences():
    assert torch.autograd.gradgradcheck(lambda *given: modulated_sum(*given, 2, 1), leaves(3, 4, 2))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)], ids=str)
def test_half_precision_sums_do_not_stall(dtype, tolerance):
    """Running sums over 800 rows in bfloat16 would be two per cent off, those over 49 cells half a per cent."""
    given = leaves(800, 4, heads=1, channels=2, side=7)
    with torch.no_grad():
        given = [value.to(dtype).requires_grad_() for value in given]
    out = modulated_sum(*given)
    (of_kernels,) = torch.autograd.grad(out, given[2], torch.ones_like(out))
    exact = [value.detach().double().requires_grad_() for value in given]
    expected = reference(*exact)
    (exact_of_kernels,) = torch.autograd.grad(expected, exact[2], torch.ones_like(expected))
    assert out.dtype == of_kernels.dtype == dtype
    for value, precise in ((out, expected), (of_kernels, exact_of_kernels)):
        assert (value.double() - precise).norm() < tolerance * precise.norm()
