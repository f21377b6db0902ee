"""Gated products and pools against plain expressions, in pieces as small as single planes."""

import pytest
import torch

from attention import CBAM
from attention.functional import pieces, pools
from attention.functional.gating import gated, jointly_gated
from attention.functional.pools import mean, pooled

SIZE = (3, 5, 4, 6)
CHANNELS, POSITIONS, ROWS, COLUMNS = (3, 5, 1, 1), (3, 1, 4, 6), (3, 5, 4, 1), (3, 5, 1, 6)
every_layout = pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
every_piece = pytest.mark.parametrize("piece", [1, 400, 1 << 19], ids=["planes", "uneven", "whole"])


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # pieces grow with the threads
    yield
    torch.set_num_threads(threads)


def make(size, layout="contiguous"):
    x = torch.randn(size, dtype=torch.float64)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    if layout == "strided":
        x = torch.randn(*size[:3], 2 * size[3], dtype=torch.float64)[..., ::2]
    return x.requires_grad_()


def same_gradients(found, expected, leaves):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    direction = torch.randn_like(expected)
    gradients = torch.autograd.grad(found, leaves, direction, retain_graph=True)
    torch.testing.assert_close(
        gradients, torch.autograd.grad(expected, leaves, direction, retain_graph=True), rtol=1e-11, atol=1e-11
    )
    kept = direction.clone()
    torch.testing.assert_close(torch.autograd.grad(found, leaves, direction), gradients, rtol=0, atol=0)
    assert torch.equal(direction, kept)  # what somebody passes in is not written to


@every_piece
@every_layout
@pytest.mark.parametrize(
    "shapes",
    [
        [CHANNELS],
        [POSITIONS],
        [SIZE],
        [ROWS, COLUMNS],
        [CHANNELS, POSITIONS],
        [COLUMNS, CHANNELS, POSITIONS],
        [(3, 1, 1, 1)],
    ],
    ids=str,
)
def test_products_and_their_gradients(shapes, layout, piece, monkeypatch, one_thread):
    monkeypatch.setattr(pieces, "PIECE", piece)
    torch.manual_seed(0)
    x, gates = make(SIZE, layout), [make(shape) for shape in shapes]
    expected = x
    for gate in gates:
        expected = expected * gate
    same_gradients(gated(x, *gates), expected, [x, *gates])
    with torch.no_grad():
        torch.testing.assert_close(gated(x, *gates), expected)


@every_piece
@every_layout
@pytest.mark.parametrize("product", [True, False])
def test_joint_gates_and_their_gradients(product, layout, piece, monkeypatch, one_thread):
    monkeypatch.setattr(pieces, "PIECE", piece)
    torch.manual_seed(0)
    x, c, s = make(SIZE, layout), make(CHANNELS), make(POSITIONS)
    expected = x * (1 + torch.sigmoid(c * s if product else c + s))
    same_gradients(jointly_gated(x, c, s, product), expected, [x, c, s])


@every_piece
@every_layout
@pytest.mark.parametrize(
    ("means", "maxima"),
    [([(3,), (2,)], []), ([(2, 3)], [(2, 3)]), ([(1,)], [(1,)]), ([(1,), (2, 3)], [(2, 3), (1,)]), ([], [(2, 3)])],
    ids=str,
)
def test_pools_and_their_gradients(means, maxima, layout, piece, monkeypatch, one_thread):
    monkeypatch.setattr(pieces, "PIECE", piece)
    torch.manual_seed(0)
    x, gate = make(SIZE, layout), make(CHANNELS)
    expected = x * gate
    factors = [torch.randn(()) for _ in [*means, *maxima]]
    pools = [x.mean(axes, keepdim=True) for axes in means] + [x.amax(axes, keepdim=True) for axes in maxima]
    for factor, pool in zip(factors, pools, strict=True):
        expected = expected + factor * pool
    same, found = pooled(x, means, maxima)
    with torch.no_grad():
        torch.testing.assert_close(pooled(x, means, maxima), (x, found))
    out = gated(same, gate)
    for factor, pool in zip(factors, found, strict=True):
        out = out + factor * pool
    same_gradients(out, expected, [x, gate])


@every_layout
def test_pools_alone_have_gradients(layout):
    x = make(SIZE, layout)
    average, top = pooled(x, [(2, 3)], [(2, 3)])[1]
    same_gradients(average + top, x.mean((2, 3), keepdim=True) + x.amax((2, 3), keepdim=True), [x])
    same_gradients(mean(x, (1,)), x.mean(1, keepdim=True), [x])
    same_gradients(mean(x, (2, 3)), x.mean((2, 3), keepdim=True), [x])


@every_layout
@pytest.mark.parametrize("mode", ["eager", "compiled", "transformed"])
@pytest.mark.parametrize("axes", [(1,), (2, 3)])
def test_the_first_of_equal_maxima_gets_the_gradient(axes, mode, layout):
    def top(x):
        return pooled(x, maxima=[axes])[1][0].sum()

    x = torch.zeros_like(make((2, 3, 4, 5), layout))  # keeps the layout, but for strides
    if layout == "strided":
        x = torch.zeros(2, 3, 4, 10, dtype=torch.float64)[..., ::2]
    if mode == "transformed":
        gradient = torch.func.grad(top)(x)
    else:
        x.requires_grad_()
        torch.compiler.reset()
        call = torch.compile(top, backend="aot_eager", fullgraph=True) if mode == "compiled" else top
        (gradient,) = torch.autograd.grad(call(x), x)
    expected = torch.zeros(2, 3, 4, 5, dtype=torch.float64)
    expected[(slice(None), 0) if axes == (1,) else (..., 0, 0)] = 1
    assert torch.equal(gradient, expected)


def test_not_a_number_is_not_hidden():
    x = torch.zeros(1, 2, 3, 4)
    x[0, 1, 2, 1] = torch.nan
    for given in (x, x.clone().requires_grad_()):
        top, average = pooled(given, [(2, 3)], [(2, 3)])[1]
        assert top.isnan().flatten().tolist() == average.isnan().flatten().tolist() == [False, True]


def test_only_wanted_gradients_are_computed():
    x, gate = torch.randn(SIZE), torch.randn(CHANNELS, requires_grad=True)
    (gradient,) = torch.autograd.grad(gated(x, gate).sum(), gate)
    torch.testing.assert_close(gradient, x.sum((2, 3), keepdim=True))
    y = torch.randn(SIZE, requires_grad=True)
    (gradient,) = torch.autograd.grad(gated(y, gate.detach()).sum(), y)
    torch.testing.assert_close(gradient, gate.detach().expand_as(y))


def test_precision_and_format_are_the_maps():
    x = torch.randn(SIZE).bfloat16().to(memory_format=torch.channels_last).requires_grad_()
    gate = torch.rand(POSITIONS, requires_grad=True)
    out = gated(x, gate)
    assert out.dtype == torch.bfloat16 and out.is_contiguous(memory_format=torch.channels_last)
    out.float().sum().backward()
    assert gate.grad.dtype == torch.float32
    torch.testing.assert_close(gate.grad, x.detach().float().sum(1, keepdim=True), rtol=1e-2, atol=5e-2)


def test_half_precision_sums_do_not_stall():
    """A bfloat16 running sum would stop at 256: the next one is half a unit in its last place."""
    x, gate = torch.ones(1, 1, 64, 64, dtype=torch.bfloat16), torch.ones(1, 1, 1, 1, dtype=torch.bfloat16)
    gate.requires_grad_()
    gated(x, gate).sum().backward()
    assert gate.grad.item() == 4096


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    "call",
    [
        lambda x, c, s: gated(x, c, s),
        lambda x, c, s: gated(x, c, c * x.mean((2, 3), keepdim=True)),  # a gate that depends on the map and another
        lambda x, c, s: jointly_gated(x, c, s, True),
        lambda x, c, s: jointly_gated(x, c, s, False),
        lambda x, c, s: gated((read := pooled(x, [(2, 3)], [(2, 3)]))[0], c * read[1][0] + read[1][1].sin(), s),
        lambda x, c, s: pooled(x * s, [(1,), (2, 3)], [(1,)])[1][2].exp() * c,
        lambda x, c, s: mean(x * s, (2, 3)).exp() * c,
    ],
    ids=["gated", "gated-dependent", "joint-product", "joint-sum", "pooled-gated", "pooled", "mean"],
)
def test_second_derivatives_are_those_of_differences(call, layout):
    torch.manual_seed(0)
    leaves = make((2, 3, 2, 3), layout), make((2, 3, 1, 1)), make((2, 1, 2, 3))
    assert torch.autograd.gradgradcheck(call, leaves)


def test_transforms_see_the_plain_expressions():
    """Gradients of every sample by `vmap`, and forward mode, against one sample after the other."""
    torch.manual_seed(0)
    operator, x = CBAM(6, 2).double().eval(), torch.randn(3, 6, 4, 5, dtype=torch.float64)
    torch.nn.init.ones_(operator.spatial.bn.weight)
    parameters = {name: value.detach() for name, value in operator.named_parameters()}

    def loss(given, image):
        return torch.func.functional_call(operator, given, (image.unsqueeze(0),)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for index, image in enumerate(x):
        expected = torch.autograd.grad(loss(dict(operator.named_parameters()), image), list(operator.parameters()))
        for name, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(found[name][index], gradient)
    direction = torch.randn_like(x)
    out, slope = torch.func.jvp(operator, (x,), (direction,))
    torch.testing.assert_close(out, operator(x))
    step = 1e-6 * direction
    torch.testing.assert_close(slope, (operator(x + step) - operator(x - step)) / 2e-6, rtol=1e-5, atol=1e-6)


def test_pieces_cover_every_plane_once(monkeypatch, one_thread):
    for shape in [(1, 1, 1, 1), (3, 5, 4, 6), (7, 2, 3, 3), (2, 300, 2, 2)]:
        for piece in (1, 100, 400, 5000):
            monkeypatch.setattr(pieces, "PIECE", piece)
            x = torch.zeros(shape)
            for found in pieces.pieces(x):
                x[found] += 1
            assert (x == 1).all()


def test_gradients_of_pools_reach_gradients_of_other_layouts():
    x = make(SIZE)
    same, top, _ = pools._Pooled.apply(x, (), ((2, 3),))
    given, ones = torch.randn(3, 4, 6, 5, dtype=torch.float64).permute(0, 3, 1, 2), torch.ones_like(top)
    (found,) = torch.autograd.grad([same, top], x, [given, ones])
    (expected,) = torch.autograd.grad([x * 1, x.amax((2, 3), keepdim=True)], x, [given, ones])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_pools_leave_the_gradient_that_they_are_handed(layout):
    """Addition gives one tensor to both of its arguments, hooks and `retain_grad` may keep what they saw."""
    x, w, seen = make(SIZE, layout), make(SIZE, layout), []
    y, (average, top) = pooled(x, [(2, 3)], [(2, 3)])
    y.register_hook(seen.append)
    direction = torch.randn_like(x)
    ones = torch.ones_like(average)
    of_x, of_w = torch.autograd.grad([y + w, y * 2, average, top], [x, w], [direction, direction, ones, ones])
    (of_pools,) = torch.autograd.grad((x.mean((2, 3)) + x.amax((2, 3))).sum(), x)
    assert torch.equal(of_w, direction) and torch.equal(seen[0], 3 * direction)
    torch.testing.assert_close(of_x, 3 * direction + of_pools)
