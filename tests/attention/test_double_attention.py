"""Double attention against the equations of arXiv 1810.11579, one number at a time."""

import pytest
import torch
from torch import nn

from attention import DoubleAttention, record_attention


def projected(convolution, x):
    return torch.einsum("dc,bchw->bdhw", convolution.weight[:, :, 0, 0], x) + convolution.bias.view(1, -1, 1, 1)


def softmax(logits):
    highest = max(each.item() for each in logits)
    exponentials = [torch.exp(each - highest) for each in logits]
    return [each / sum(exponentials) for each in exponentials]


def reference(operator, x):
    features, to_gather, to_distribute = (
        projected(part, x) for part in (operator.feature, operator.gather, operator.distribute)
    )
    cells = [(i, j) for i in range(x.shape[2]) for j in range(x.shape[3])]
    read = torch.zeros_like(features)
    for b in range(len(x)):
        descriptors = []
        for n in range(to_gather.shape[1]):
            weights = softmax([to_gather[b, n, i, j] for i, j in cells])
            descriptors.append(sum(w * features[b, :, i, j] for w, (i, j) in zip(weights, cells, strict=True)))
        for i, j in cells:
            shares = softmax([to_distribute[b, n, i, j] for n in range(len(descriptors))])
            read[b, :, i, j] = sum(w * each for w, each in zip(shares, descriptors, strict=True))
    return x + projected(operator.out, read)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize(("c_m", "c_n"), [(None, None), (3, 5), (7, 1)])
def test_equation_forward_and_backward(c_m, c_n, size, agree):
    torch.manual_seed(0)
    agree(DoubleAttention(6, c_m, c_n), reference, torch.randn(2, 6, *size))


def test_the_order_of_the_sums_does_not_matter():
    """The product of all positions with all positions, which is never made, gives the same."""
    torch.manual_seed(0)
    operator, x = DoubleAttention(8, 4, 3).double(), torch.randn(2, 8, 5, 6, dtype=torch.float64)
    nn.init.normal_(operator.out.weight)
    gathering = operator.gather(x).flatten(2).softmax(2)
    distributing = operator.distribute(x).flatten(2).softmax(1)
    weights = torch.einsum("bni,bnj->bij", distributing, gathering)
    read = torch.einsum("bij,bcj->bci", weights, operator.feature(x).flatten(2)).unflatten(2, (5, 6))
    torch.testing.assert_close(operator(x), x + operator.out(read), rtol=1e-10, atol=1e-12)


def test_a_fresh_block_is_the_identity():
    torch.manual_seed(0)
    x, operator = torch.randn(2, 8, 5, 3), DoubleAttention(8)
    assert torch.equal(operator(x), x)
    operator(x).square().sum().backward()
    assert operator.out.weight.grad.abs().sum() > 0


def test_size_of_five_blocks_in_resnet_50():
    """Of half the channels, two in stage 2 and three in stage 3; the paper states 33.0 M parameters in all."""
    with torch.device("meta"):
        added = [sum(p.numel() for p in DoubleAttention(c).parameters()) for c in (512, 1024)]
    assert added == [525_568, 2_099_712]
    assert 25_557_032 + 2 * added[0] + 3 * added[1] == 32_907_304


def test_maps_reproduce_the_output():
    torch.manual_seed(0)
    operator, x = DoubleAttention(8, 4, 3), torch.randn(2, 8, 5, 3)
    nn.init.normal_(operator.out.weight)
    with record_attention(operator) as maps:
        out = operator(x)
    gather, key = maps[""]
    assert (gather.name, key.name) == ("gather", "key")
    assert gather.weights.shape == (2, 3, 1, 1, 5, 3) and key.weights.shape == (2, 1, 5, 3, 5, 3)
    torch.testing.assert_close(gather.heat_map(5, 3).sum((1, 2)), torch.ones(2))
    torch.testing.assert_close(key.heat_map(5, 3).sum((1, 2)), torch.full((2,), 15.0))
    read = torch.einsum("bijyx,bcyx->bcij", key.weights[:, 0], operator.feature(x))
    torch.testing.assert_close(x + operator.out(read), out)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_logits_stay_finite_under_autocast(dtype):
    torch.manual_seed(0)
    operator = DoubleAttention(64)
    x = (1000 * torch.randn(1, 64, 9, 7)).requires_grad_()
    with torch.autocast("cpu", dtype):
        out = operator(x)
    out.float().sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()


def test_wrong_arguments_are_named_with_a_remedy():
    for options, message in (({"c_m": 0}, "c_m=0 .*at least 1"), ({"c_n": -1}, "c_n=-1 .*at least 1")):
        with pytest.raises(ValueError, match=message):
            DoubleAttention(8, **options)
    assert DoubleAttention(1).out.weight.shape == (1, 1, 1, 1)
