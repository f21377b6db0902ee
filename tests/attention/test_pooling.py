"""Pools and gated products against sums and expressions written out, in every layout."""

import pytest
import torch

from attention.pooling import column_means, gated, global_max, global_mean, maximum, mean, row_means, total

every_layout = pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])


def laid_out(x, layout):
    if layout == "strided":
        return torch.stack([x, -x], -1)[..., 0]
    return x.contiguous(
        memory_format=getattr(torch, "channels_last" if layout == "channels_last" else "contiguous_format")
    )


@every_layout
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
def test_pools_reduce_the_axes_they_name_and_give_their_gradients(size, layout):
    x = laid_out(torch.randn(2, 4, *size, dtype=torch.float64), layout).requires_grad_()
    rows, columns = size
    pairs = [
        (global_mean(x), x.sum((2, 3), keepdim=True) / (rows * columns)),
        (global_max(x), x.amax((2, 3), keepdim=True)),
        (row_means(x), torch.stack([x[:, :, i].sum(2) / columns for i in range(rows)], 2)),
        (column_means(x), torch.stack([x[..., j].sum(2) / rows for j in range(columns)], 2)),
        (mean(x, 1), x.sum(1, keepdim=True) / 4),
        (maximum(x, 1), x.amax(1, keepdim=True)),
        (maximum(x, 2), x.amax(2, keepdim=True)),
        (maximum(x, 3), x.amax(3, keepdim=True)),
        (total(x, 2, 3), sum(x[:, :, i, j] for i in range(rows) for j in range(columns))[:, :, None, None]),
        (total(x, 1), sum(x.unbind(1)).unsqueeze(1)),
    ]
    for found, expected in pairs:
        torch.testing.assert_close(found, expected)
        direction = torch.randn_like(expected)
        gradients = [torch.autograd.grad(value, x, direction, retain_graph=True)[0] for value in (found, expected)]
        torch.testing.assert_close(*gradients)
    with torch.no_grad():
        assert torch.equal(global_max(x), pairs[1][0]) and torch.equal(maximum(x, 1), pairs[5][0])


@every_layout
@pytest.mark.parametrize("mode", ["eager", "compiled", "transformed"])
@pytest.mark.parametrize("axes", [(1,), (2,), (3,), (2, 3)])
def test_the_first_of_equal_maxima_gets_the_gradient(axes, mode, layout):
    def top(x):
        return maximum(x, *axes).sum()

    x = laid_out(torch.zeros(2, 3, 4, 5), layout)
    if mode == "transformed":
        gradient = torch.func.grad(top)(x)
    else:
        x.requires_grad_()
        torch.compiler.reset()
        call = torch.compile(top, backend="aot_eager", fullgraph=True) if mode == "compiled" else top
        (gradient,) = torch.autograd.grad(call(x), x)
    expected = torch.zeros(2, 3, 4, 5)
    expected[tuple(0 if axis in axes else slice(None) for axis in range(4))] = 1
    assert torch.equal(gradient, expected)


def test_not_a_number_is_not_hidden():
    x = torch.zeros(1, 2, 3, 4)
    x[0, 1, 2, 1] = torch.nan
    for given in (x, x.clone().requires_grad_()):
        for pool in (global_max, global_mean):
            assert pool(given).isnan().flatten().tolist() == [False, True]


@every_layout
def test_products_keep_precision_and_format_of_the_map(layout):
    x = laid_out(torch.randn(3, 5, 4, 6).bfloat16(), layout)
    gates = [torch.rand(shape) for shape in ((3, 5, 1, 1), (3, 1, 4, 6), (3, 5, 4, 1), (3, 5, 1, 6))]
    out = gated(x, *gates)
    expected = x.float()
    for gate in gates:
        expected = expected * gate
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last) == (layout == "channels_last")
    torch.testing.assert_close(out.float(), expected, rtol=3e-2, atol=1e-2)
