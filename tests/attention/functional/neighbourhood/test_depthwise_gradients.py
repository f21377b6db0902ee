"""Depth-wise convolution against PyTorch's, whose gradient of the kernels it computes in another way."""

import pytest
import torch
from torch.nn import functional as F

from attention.functional.neighbourhood import depthwise


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("geometry", [(1, 1), (2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize(("channels", "size"), [(32, (1, 1)), (48, (1, 7)), (32, (13, 9)), (24, (5, 6))])
def test_gradients_are_those_of_the_convolution(channels, size, geometry, memory_format):
    torch.manual_seed(0)
    stride, dilation = geometry
    values = torch.randn(2, channels, *size).contiguous(memory_format=memory_format).requires_grad_()
    kernels = torch.randn(channels, 1, 5, 5, requires_grad=True)
    expected = F.conv2d(values, kernels, None, stride, 2 * dilation, dilation, channels)
    out, direction = depthwise(values, kernels, stride, dilation), torch.randn(expected.shape)
    torch.testing.assert_close(out, expected)
    for ours, theirs in zip(
        torch.autograd.grad(out, (values, kernels), direction),
        torch.autograd.grad(expected, (values, kernels), direction),
        strict=True,
    ):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wanted", [0, 1])
def test_only_what_is_asked_for_gets_a_gradient(wanted):
    inputs = [torch.randn(1, 16, 5, 5), torch.randn(16, 1, 3, 3)]
    inputs[wanted].requires_grad_()
    depthwise(*inputs).sum().backward()
    assert inputs[wanted].grad is not None
    assert inputs[1 - wanted].grad is None


def test_half_precision_and_autocast_take_the_plain_convolution():
    values, kernels = torch.randn(1, 16, 5, 5), torch.randn(16, 1, 3, 3, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert depthwise(values, kernels).dtype == torch.bfloat16
    assert depthwise(values.double(), kernels.double()).dtype == torch.float64
