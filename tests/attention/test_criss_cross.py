"""Criss-cross attention against the equations of arXiv 1811.11721, one position at a time."""

import pytest
import torch

from attention import record_attention
from attention.criss_cross import CrissCrossAttention


def projected(convolution, x):
    return torch.einsum("dc,bchw->bdhw", convolution.weight[:, :, 0, 0], x) + convolution.bias.view(1, -1, 1, 1)


def reference(operator, x):
    height, width = x.shape[2:]
    for _ in range(operator.recurrence):
        queries, keys, values = (projected(part, x) for part in (operator.query, operator.key, operator.value))
        read = []
        for i in range(height):
            for j in range(width):
                cross = [(m, j) for m in range(height) if m != i] + [(i, n) for n in range(width)]
                logits = torch.stack([(queries[:, :, i, j] * keys[:, :, a, b]).sum(1) for a, b in cross], 1)
                weights = torch.exp(logits - logits.amax(1, keepdim=True))
                weights = weights / weights.sum(1, keepdim=True)
                read.append(sum(weights[:, n, None] * values[:, :, a, b] for n, (a, b) in enumerate(cross)))
        x = x + operator.gamma * torch.stack(read, 2).unflatten(2, (height, width))
    return x


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (5, 3)])
@pytest.mark.parametrize("recurrence", [1, 2])
def test_equation_forward_and_backward(recurrence, size, agree):
    torch.manual_seed(0)
    agree(CrissCrossAttention(6, 3, recurrence), reference, torch.randn(2, 6, *size))


def test_a_fresh_block_is_the_identity():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 5, 3)
    operator = CrissCrossAttention(8)
    assert torch.equal(operator(x), x)
    operator(x).square().sum().backward()
    assert operator.gamma.grad.abs() > 0


def test_size_of_the_published_module():
    assert sum(p.numel() for p in CrissCrossAttention(512).parameters()) == 328_321


@pytest.mark.parametrize(("recurrence", "reached"), [(1, 5 + 3 - 1), (2, 5 * 3)])
def test_two_turns_read_from_everywhere(recurrence, reached):
    torch.manual_seed(0)
    operator = CrissCrossAttention(8, 2, recurrence).double()
    torch.nn.init.ones_(operator.gamma)
    x = torch.randn(1, 8, 5, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(operator(x)[0, :, 2, 1].sum(), x)
    assert int((gradient.abs().sum(1) > 0).sum()) == reached


def test_maps_share_one_softmax_and_reproduce_the_output():
    torch.manual_seed(0)
    operator = CrissCrossAttention(8, 2, recurrence=2)
    torch.nn.init.ones_(operator.gamma)
    x = torch.randn(2, 8, 5, 3)
    with record_attention(operator) as maps:
        out = operator(x)
    assert [recorded.name for recorded in maps[""]] == ["column", "row"] * 2
    for column, row in (maps[""][:2], maps[""][2:]):
        a, b = column.weights[:, 0, ..., 0], row.weights[:, 0, :, :, 0]
        torch.testing.assert_close(a.sum(3) + b.sum(3), torch.ones(2, 5, 3))
        assert torch.equal(torch.einsum("biji->bij", a), torch.zeros(2, 5, 3))
        both = column.heat_map(5, 3) + row.heat_map(5, 3)
        torch.testing.assert_close(both.sum((1, 2)), torch.full((2,), 15.0))
        values = operator.value(x)
        x = x + torch.einsum("bijm,bcmj->bcij", a, values) + torch.einsum("bijn,bcin->bcij", b, values)
    torch.testing.assert_close(x, out)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_unscaled_logits_stay_finite_and_precise_under_autocast(dtype):
    torch.manual_seed(0)
    operator = CrissCrossAttention(64)
    x = (300 * torch.randn(1, 64, 6, 5)).requires_grad_()
    with torch.autocast("cpu", dtype), record_attention(operator) as maps:
        out = operator(x)
    out.float().sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()
    assert all(recorded.weights.dtype == torch.float32 for recorded in maps[""])


def test_wrong_arguments_are_named_with_a_remedy():
    with pytest.raises(ValueError, match=r"reduction=8 .*at most 4"):
        CrissCrossAttention(4)
    with pytest.raises(ValueError, match=r"recurrence=0 .*at least 1"):
        CrissCrossAttention(8, recurrence=0)
