"""The attention residual of LaViT against its definition on pairs of 2 x 2 blocks of tokens, one number at a time."""

import pytest
import torch

from attention.attention_residual import AttentionResidual
from attention.lavit import LessAttention, VanillaAttention


def block(window, number):
    """The tokens of a window in one 2 x 2 block, as {(dy, dx): token}, without those outside."""
    across = -(-window // 2)
    top, left = 2 * (number // across), 2 * (number % across)
    return {
        (dy, dx): (top + dy) * window + left + dx
        for dy in range(2)
        for dx in range(2)
        if top + dy < window and left + dx < window
    }


def kernel(operator, head):
    """Weight of each pair of cells, as a function of (query dy, dx) and (key dy, dx)."""
    if operator.pooling == "blocks":
        return lambda q, k: operator.pool[0][head, 0, 2 * q[0] + q[1], 2 * k[0] + k[1]]
    first, second = operator.pool
    if operator.pooling == "separable":
        return lambda q, k: first[head, 0][q] * second[head, 0][k]
    # Kernel 2, stride 2 on the image in block order pools the two cells of a row of the block (dx); again, both rows.
    return lambda q, k: first[head, 0, q[1], k[1]] * second[head, 0, q[0], k[0]]


def reference(operator, scores):
    count = (-(-operator.window // 2)) ** 2
    pooled = []
    for head in range(operator.heads):
        weight = kernel(operator, head)
        rows = []
        for i in range(count):
            row = []
            for j in range(count):
                queries, keys = block(operator.window, i), block(operator.window, j)
                row.append(
                    sum(weight(q, k) * scores[:, head, a, b] for q, a in queries.items() for k, b in keys.items())
                )
            rows.append(torch.stack(row, 1))
        pooled.append(torch.stack(rows, 1) + (0 if operator.pool_bias is None else operator.pool_bias[head]))
    mixed = []
    for new, row in enumerate(operator.mix):
        constant = 0 if operator.mix_bias is None else operator.mix_bias[new]
        mixed.append(sum(row[head] * pooled[head] for head in range(operator.heads)) + constant)
    return torch.stack(mixed, 1) * operator.gamma


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("window", [1, 2, 3, 4])
@pytest.mark.parametrize("pooling", ["blocks", "separable", "literal"])
def test_equation_forward_and_backward(pooling, window, bias, agree):
    torch.manual_seed(0)
    operator = AttentionResidual(2, 3, window, pooling, bias=bias)
    agree(operator, reference, torch.randn(2, 2, window**2, window**2))


@pytest.mark.parametrize("pooling", ["blocks", "separable", "literal"])
def test_fresh_residual_is_the_scaled_mean_of_blocks(pooling):
    torch.manual_seed(0)
    scores = torch.randn(3, 2, 16, 16)
    blocks = [list(block(4, number).values()) for number in range(4)]
    means = torch.stack([torch.stack([scores[:, :, a][..., b].mean((2, 3)) for b in blocks], 2) for a in blocks], 2)
    torch.testing.assert_close(AttentionResidual(2, 2, 4, pooling)(scores), 0.1 * means)
    more = AttentionResidual(2, 4, 4, pooling, layer_scale=1.0)(scores)
    torch.testing.assert_close(more, means[:, [0, 0, 1, 1]])
    assert torch.equal(AttentionResidual(2, 4, 4, pooling, layer_scale=0.0)(scores), torch.zeros(3, 4, 4, 4))


@pytest.mark.parametrize(("pooling", "of_heads"), [("blocks", 16), ("separable", 8), ("literal", 8)])
def test_parameters_match_the_formula(pooling, of_heads):
    operator = AttentionResidual(5, 8, 14, pooling)
    assert sum(p.numel() for p in operator.parameters()) == of_heads * 5 + 5 * 8 + 8
    assert operator(torch.zeros(1, 5, 196, 196)).shape == (1, 8, 49, 49)


@pytest.mark.parametrize("size", [(8, 8), (13, 6), (9, 5), (1, 1)])
def test_windows_of_two_stages_fit_each_other(size):
    """Windows of 4 on H x W are windows of 2 on ceil(H / 2) x ceil(W / 2), whatever the size; padding has no say."""
    torch.manual_seed(0)
    first, second = VanillaAttention(4, 2, 4), LessAttention(4, 2, 4)
    between, third = AttentionResidual(2, 1, 4, layer_scale=1.0), VanillaAttention(8, 1, 2)
    torch.nn.init.normal_(second.theta.bias)
    merge = torch.nn.Conv2d(4, 8, 2, 2)
    x = torch.randn(2, 4, *size)
    y, scores = first(x)
    y, scores = second(y, scores)
    half = merge(torch.nn.functional.pad(y, (0, size[1] % 2, 0, size[0] % 2)))
    out, with_residual = third(half, between(scores))
    without = third(half)[1]
    assert out.shape == half.shape
    assert (with_residual - without).abs().max() > 0
    assert torch.equal(with_residual == 0, without == 0)


def test_precise_under_autocast_and_in_half_precision():
    operator = AttentionResidual(2, 3, 4)
    scores = 1e6 * torch.randn(1, 2, 16, 16)
    expected = operator(scores)
    with torch.autocast("cpu", torch.float16):
        out = operator(scores)
    assert out.dtype == torch.float32 and torch.equal(out, expected)
    assert operator.bfloat16()(scores).dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AttentionResidual(0, 2, 4), "heads=0 .*at least 1"),
        (lambda: AttentionResidual(2, 2, 4, "mean"), "pooling='mean' .*blocks, separable, literal"),
        (lambda: AttentionResidual(2, 2, 4)(torch.zeros(1, 2, 9, 9)), "window=4; .*\\(windows, 2, 16, 16\\)"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
