"""Progressive attention against its equations, one number at a time."""

import pytest
import torch

from attention import ProgressiveAttention, record_attention


def reference(operator, x):
    batch, _, height, width = x.shape
    kernel = operator.context.weight
    reach = kernel.shape[2] // 2
    out = torch.zeros_like(x)
    for b in range(batch):
        query = operator.query.weight[:, :, 0, 0] @ (sum(x[b].flatten(1).unbind(1)) / (height * width))
        for i in range(height):
            for j in range(width):
                hidden = operator.context.bias + query
                for a in range(kernel.shape[2]):
                    for c in range(kernel.shape[3]):
                        row, column = i + a - reach, j + c - reach
                        if 0 <= row < height and 0 <= column < width:
                            hidden = hidden + kernel[:, :, a, c] @ x[b, :, row, column]
                score = operator.score.weight[0, :, 0, 0] @ torch.clamp(hidden, min=0) + operator.score.bias[0]
                out[b, :, i, j] = x[b, :, i, j] / (1 + torch.exp(-score))
    return out


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_equation_forward_and_backward(kernel_size, size, agree):
    torch.manual_seed(0)
    agree(ProgressiveAttention(6, 2, kernel_size), reference, torch.randn(2, 6, *size))


def test_a_fresh_gate_halves_the_map():
    x = torch.randn(2, 8, 5, 3)
    assert torch.equal(ProgressiveAttention(8)(x), x / 2)


def test_size():
    assert sum(p.numel() for p in ProgressiveAttention(64).parameters()) == 8 * (64 * 10 + 2) + 1 == 5_137


def test_map_reproduces_the_output():
    torch.manual_seed(0)
    operator, x = ProgressiveAttention(8), torch.randn(2, 8, 5, 3)
    torch.nn.init.normal_(operator.score.weight)
    with record_attention(operator) as maps:
        out = operator(x)
    (recorded,) = maps[""]
    assert recorded.name == "position" and recorded.weights.shape == (2, 1, 5, 3)
    torch.testing.assert_close(x * recorded.weights, out)


def test_wrong_arguments_are_named_with_a_remedy():
    with pytest.raises(ValueError, match=r"reduction=8 .*at most 4"):
        ProgressiveAttention(4)
    with pytest.raises(ValueError, match=r"kernel_size=2 .*odd"):
        ProgressiveAttention(8, kernel_size=2)
