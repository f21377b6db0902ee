"""Efficient channel attention against its equation, written out as loops, and against timm."""

import math

import pytest
import torch
from timm.layers import EcaModule

from attention import EfficientChannelAttention, record_attention


def reference(operator, x):
    """Equations 5 and 9 of arXiv 1910.03151, one number at a time."""
    batch, channels, rows, columns = x.shape
    kernel = operator.conv.weight[0, 0]
    out = torch.zeros_like(x)
    for b in range(batch):
        means = [x[b, c].sum() / (rows * columns) for c in range(channels)]
        for c in range(channels):
            score = x.sum() * 0
            for tap in range(len(kernel)):
                neighbour = c + tap - len(kernel) // 2
                if 0 <= neighbour < channels:
                    score = score + kernel[tap] * means[neighbour]
            out[b, c] = x[b, c] / (1 + torch.exp(-score))
    return out


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize(("channels", "kernel_size"), [(9, None), (4, 1), (6, 5), (3, 7)])
def test_equation_forward_and_backward(channels, kernel_size, size, agree):
    torch.manual_seed(0)
    agree(EfficientChannelAttention(channels, kernel_size), reference, torch.randn(2, channels, *size))


@pytest.mark.parametrize("kernel_size", [None, 7])
def test_equals_timm_with_copied_weights(kernel_size, same_function):
    torch.manual_seed(0)
    ours = EfficientChannelAttention(64, kernel_size)
    peer = EcaModule(64) if kernel_size is None else EcaModule(kernel_size=kernel_size)
    peer.load_state_dict(ours.state_dict())
    same_function(ours, peer, torch.randn(2, 64, 9, 7))


def test_kernel_follows_the_number_of_channels():
    def size(channels):
        return EfficientChannelAttention(channels).conv.kernel_size[0]

    assert [size(c) for c in (1, 2, 8, 16, 64, 128, 256, 512, 2048)] == [1, 1, 3, 3, 3, 5, 5, 5, 7]
    for channels in range(1, 5000, 7):
        nearest = math.floor(math.log2(channels) / 2 + 0.5)  # equation 12 with gamma = 2, b = 1
        assert size(channels) == nearest + (nearest % 2 == 0)
        if channels >= 8:
            assert size(channels) == EcaModule(channels).conv.kernel_size[0]
        assert EfficientChannelAttention(channels, minimum=3).conv.kernel_size == EcaModule(channels).conv.kernel_size
    for channels in range(1, 8):  # where the equation and timm differ
        assert size(channels) == 1
        assert EfficientChannelAttention(channels, minimum=3).conv.kernel_size == EcaModule(channels).conv.kernel_size


def test_recorded_weights_reproduce_the_output():
    operator, x = EfficientChannelAttention(16), torch.randn(2, 16, 5, 6)
    with record_attention(operator) as maps:
        out = operator(x)
    (found,) = maps[""]
    assert found.name == "channel" and found.weights.shape == (2, 16, 1, 1)
    torch.testing.assert_close(out, x * found.weights)


def test_even_kernels_are_refused():
    for size in (0, 4):
        with pytest.raises(ValueError, match=f"kernel_size={size} .*odd"):
            EfficientChannelAttention(16, size)
        with pytest.raises(ValueError, match=f"minimum={size} .*odd"):
            EfficientChannelAttention(16, minimum=size)
