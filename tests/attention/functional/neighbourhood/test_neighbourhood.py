"""Sums and inner products over neighbourhoods: the registered operators against their definition and each other."""

from itertools import product

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from attention.functional.neighbourhood import (
    blocks,
    neighbourhood_products,
    neighbourhood_rows,
    neighbourhood_sum,
    operators,
    shifts,
)
from attention.functional.neighbourhood.launch import _scatter_by_shifts

SIZES = [(1, 1), (1, 7), (7, 1), (5, 3), (9, 14)]


def tensors(height, width, kernel_size, stride=1, heads=2, channels=3, batch=2, dtype=torch.float64):
    """Weights, queries and values of a map."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = -(-height // stride), -(-width // stride)
    shapes = (
        (batch, rows, columns, heads, kernel_size**2),
        (batch, rows, columns, heads, channels),
        (batch, height, width, heads, channels),
    )
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def seen(height, width, kernel_size, stride, dilation):
    """All pairs of a query (i, j), a cell t of its neighbourhood and the position (y, x) of that cell on the map."""
    reach = kernel_size // 2
    for i, j in product(range(-(-height // stride)), range(-(-width // stride))):
        for t, (a, b) in enumerate(product(range(-reach, reach + 1), repeat=2)):
            y, x = stride * i + dilation * a, stride * j + dilation * b
            if 0 <= y < height and 0 <= x < width:
                yield i, j, t, y, x


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("kernel_size", "stride", "dilation"), [(1, 1, 1), (3, 1, 1), (3, 2, 1), (3, 3, 2), (5, 2, 3)])
def test_definition(kernel_size, stride, dilation, size):
    weights, queries, values = tensors(*size, kernel_size, stride)
    summed, products = torch.zeros_like(queries), torch.zeros_like(weights)
    scattered = torch.zeros_like(values)
    for i, j, t, y, x in seen(*size, kernel_size, stride, dilation):
        summed[:, i, j] += weights[:, i, j, :, t, None] * values[:, y, x]
        products[:, i, j, :, t] = (queries[:, i, j] * values[:, y, x]).sum(-1)
        scattered[:, y, x] += weights[:, i, j, :, t, None] * queries[:, i, j]
    scatter = torch.ops.attndense.neighbourhood_scatter(weights, queries, *size, stride, dilation)
    torch.testing.assert_close(neighbourhood_sum(weights, values, stride, dilation), summed)
    torch.testing.assert_close(neighbourhood_products(queries, values, kernel_size, stride, dilation), products)
    torch.testing.assert_close(scatter, scattered)
    torch.testing.assert_close(_scatter_by_shifts(weights, queries, *size, stride, dilation), scattered)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7, 9])
def test_values_and_gradients_equal_those_of_shifted_copies(kernel_size, stride, dilation, size):
    weights, queries, values = (x.requires_grad_() for x in tensors(*size, kernel_size, stride))
    for ours, slow, inputs in (
        (neighbourhood_sum, shifts.weighted_sum, (weights, values)),
        (
            lambda q, v, s, d: neighbourhood_products(q, v, kernel_size, s, d),
            lambda q, v, s, d: shifts.inner_products(q, v, kernel_size, s, d),
            (queries, values),
        ),
    ):
        out, expected = (function(*inputs, stride, dilation) for function in (ours, slow))
        torch.testing.assert_close(out, expected)
        direction = torch.randn_like(out)
        gradients = torch.autograd.grad(out, inputs, direction)
        for gradient, correct in zip(gradients, torch.autograd.grad(expected, inputs, direction), strict=True):
            torch.testing.assert_close(gradient, correct)


@pytest.mark.parametrize("size", [(3, 4), (13, 9)], ids=str)
def test_windows_do_not_grow_with_the_dilation(size, monkeypatch):
    """A dilation of 12 as a plain window would take over a hundred times the arithmetic at k = 7."""
    made = []

    class Noted(blocks._Blocks):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self.window)

    monkeypatch.setattr(blocks, "_Blocks", Noted)
    weights, _, values = (x.requires_grad_() for x in tensors(*size, 7))
    out, expected = neighbourhood_sum(weights, values, 1, 12), shifts.weighted_sum(weights, values, 1, 12)
    torch.testing.assert_close(out, expected)
    direction = torch.randn_like(out)
    found, correct = (torch.autograd.grad(x, (weights, values), direction) for x in (out, expected))
    torch.testing.assert_close(found, correct)
    assert set(made) == {10}


@pytest.mark.parametrize(("kernel_size", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (3, 2, 3)])
def test_first_and_second_derivatives(kernel_size, stride, dilation):
    weights, queries, values = (
        x.requires_grad_() for x in tensors(3, 4, kernel_size, stride, heads=1, channels=2, batch=1)
    )

    def scatter(w, q):
        return torch.ops.attndense.neighbourhood_scatter(w, q, 3, 4, stride, dilation)

    for function, inputs in (
        (lambda w, v: neighbourhood_sum(w, v, stride, dilation), (weights, values)),
        (lambda q, v: neighbourhood_products(q, v, kernel_size, stride, dilation), (queries, values)),
        (scatter, (weights, queries)),
    ):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


def test_only_the_gradients_that_are_asked_for():
    weights, _, values = tensors(5, 4, 3)
    neighbourhood_sum(weights.requires_grad_(), values).sum().backward()
    assert values.grad is None
    copies = shifts.shifted(values, 5, 4, 3, 1, 1)
    torch.testing.assert_close(weights.grad, torch.stack([copy.sum(-1) for copy in copies], -1))


def channels_last_views(kernel_size, height=6, width=9, heads=2, channels=3):
    """Weights, queries and values as views of one channels_last convolution, with gaps and without copies."""
    torch.manual_seed(0)
    cells = heads * kernel_size**2
    conv = torch.nn.Conv2d(4, cells + 2 * heads * channels, 1).double().to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, height, width, dtype=torch.float64).to(memory_format=torch.channels_last)
    parts = conv(x).detach().permute(0, 2, 3, 1).split([cells, heads * channels, heads * channels], 3)
    return [part.unflatten(3, (heads, -1)) for part in parts]


def channels_first_views(*arguments):
    """The same in the layout of an ordinary convolution: neighbouring columns side by side."""
    return [part.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2) for part in channels_last_views(*arguments)]


@pytest.mark.parametrize("views", [channels_last_views, channels_first_views])
def test_views(views):
    weights, queries, values = views(3)
    assert not (weights.is_contiguous() or queries.is_contiguous() or values.is_contiguous())
    dense = [x.contiguous() for x in (weights, queries, values)]
    torch.testing.assert_close(neighbourhood_sum(weights, values), neighbourhood_sum(dense[0], dense[2]))
    torch.testing.assert_close(neighbourhood_products(queries, values, 3), neighbourhood_products(*dense[1:], 3))
    scatter = torch.ops.attndense.neighbourhood_scatter
    torch.testing.assert_close(scatter(weights, queries, 6, 9, 1, 1), scatter(*dense[:2], 6, 9, 1, 1))
    # An expanded gradient, as that of a plain sum, is such a view too.
    weights, values = weights.clone().requires_grad_(), values.clone().requires_grad_()
    gradients = torch.autograd.grad(neighbourhood_sum(weights, values).sum(), (weights, values))
    correct = torch.autograd.grad(shifts.weighted_sum(weights, values, 1, 1).sum(), (weights, values))
    for gradient, expected in zip(gradients, correct, strict=True):
        torch.testing.assert_close(gradient, expected)


def test_a_depthwise_convolution_is_a_sum_with_equal_weights_everywhere():
    weights, _, values = tensors(8, 9, 5, channels=1, dtype=torch.float32)
    kernel = weights[0, 0, 0]
    expected = F.conv2d(values.flatten(3).permute(0, 3, 1, 2), kernel.view(2, 1, 5, 5), padding=2, groups=2)
    summed = neighbourhood_sum(kernel.expand(weights.shape), values)
    torch.testing.assert_close(summed.flatten(3).permute(0, 3, 1, 2), expected)


def test_bfloat16_is_summed_in_more_digits():
    weights, queries, values = tensors(9, 10, 7, channels=64, dtype=torch.bfloat16)
    precise = [x.double() for x in (weights, queries, values)]
    summed, products = neighbourhood_sum(weights, values), neighbourhood_products(queries, values, 7)
    assert summed.dtype == products.dtype == torch.bfloat16
    torch.testing.assert_close(summed.double(), neighbourhood_sum(precise[0], precise[2]), rtol=0.01, atol=0.02)
    torch.testing.assert_close(products.double(), neighbourhood_products(*precise[1:], 7), rtol=0.01, atol=0.02)


@pytest.mark.parametrize("stride", [1, 2])
def test_registration(stride):
    weights, queries, values = (x.requires_grad_() for x in tensors(5, 6, 3, stride))
    operators = torch.ops.attndense
    torch.library.opcheck(operators.neighbourhood_sum, (weights, values, stride, 2))
    torch.library.opcheck(operators.neighbourhood_products, (queries, values, 3, stride, 2))
    torch.library.opcheck(operators.neighbourhood_scatter, (weights, queries, 5, 6, stride, 2))


def attend(queries, keys, values, kernel_size):
    """Plain local attention over a map of zeros."""
    return neighbourhood_sum(neighbourhood_products(queries, keys, kernel_size).softmax(-1), values)


def test_compiles_without_a_graph_break_for_all_sizes():
    torch._dynamo.reset()
    compiled = torch.compile(attend, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((6, 5), (9, 8)):
        _, queries, values = (x.requires_grad_() for x in tensors(*size, 3))
        gradients, expected = (
            torch.autograd.grad(function(queries, values, values, 3).square().sum(), (queries, values))
            for function in (compiled, attend)
        )
        for gradient, correct in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, correct)


def test_flops_are_counted():
    weights, queries, values = (x.requires_grad_() for x in tensors(6, 5, 3, 2, heads=2, channels=4))
    one = 2 * (2 * 3 * 3) * 2 * 9 * 4  # two per query (2 images of 3 x 3), head, cell and channel
    with FlopCounterMode(display=False) as counter:
        neighbourhood_sum(weights, values, 2).sum().backward()
    assert counter.get_total_flops() == 3 * one
    with FlopCounterMode(display=False) as counter:
        neighbourhood_products(queries, values, 3, 2).sum().backward()
    assert counter.get_total_flops() == 3 * one


class Attention(torch.nn.Module):
    """Local attention of a map with itself."""

    def forward(self, x):
        return attend(x, x, x, 3)


class TorchDispatchRecorder(TorchDispatchMode):
    """Notes the names of all operators that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(str(function))
        return function(*args, **(kwargs or {}))


def test_export_takes_standard_operators():
    x = torch.randn(1, 6, 5, 2, 4)
    rows, columns = torch.export.Dim("rows", min=2, max=64), torch.export.Dim("columns", min=2, max=64)
    exported = torch.export.export(Attention(), (x,), dynamic_shapes={"x": {1: rows, 2: columns}})
    assert "attndense" not in str(exported.graph)
    for size in ((6, 5), (9, 13)):
        x = torch.randn(1, *size, 2, 4)
        torch.testing.assert_close(exported.module()(x), Attention()(x))


def test_devices_without_a_kernel_take_standard_operators(monkeypatch):
    x = torch.randn(1, 6, 5, 2, 4, dtype=torch.float64)
    expected = Attention()(x)
    monkeypatch.setattr(operators, "_DEVICES", ("cuda",))
    with TorchDispatchRecorder() as recorder:
        torch.testing.assert_close(Attention()(x), expected)
    assert recorder.names and not any("attndense" in name for name in recorder.names)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (3, 2)])
def test_rows_are_where_the_cells_are(stride, dilation):
    rows = neighbourhood_rows(-(-7 // stride), 3, stride, dilation, torch.device("cpu"))
    inside = {(i, t // 3, y) for i, j, t, y, x in seen(7, 1, 3, stride, dilation) if t % 3 == 1}
    assert {(i, a, int(y)) for i, row in enumerate(rows) for a, y in enumerate(row) if 0 <= y < 7} == inside
