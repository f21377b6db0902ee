"""What every function with a hand-written backward pass owes to whoever differentiates it, in whatever way."""

import pytest
import torch
from torch.autograd import forward_ad

from attention.functional import plain
from attention.functional.neighbourhood import modulated_sum, neighbourhood_products, neighbourhood_sum
from attention.functional.relative import Windows, relative_attention

WHOLE, HALO = Windows((5, 6), whole=True), Windows((2, 2), halo=1)
FUNCTIONS = {
    "modulated": (modulated_sum, [(2, 5, 6, 2, 9), (2, 5, 6, 2, 3), (2, 3, 9)]),
    "neighbourhood-sum": (neighbourhood_sum, [(2, 5, 6, 2, 9), (2, 5, 6, 2, 3)]),
    "neighbourhood-products": (lambda q, k: neighbourhood_products(q, k, 3), [(2, 5, 6, 2, 3), (2, 5, 6, 2, 3)]),
    "relative": (lambda *x: relative_attention(*x, 2, 0.5, WHOLE), [(2, 8, 5, 6), (2, 14, 5, 6), (9, 4), (11, 4)]),
    "halo": (lambda *x: relative_attention(*x, 2, 0.5, HALO), [(2, 8, 5, 6), (2, 14, 5, 6), (5, 4), (5, 4)]),
}
every_function = pytest.mark.parametrize(("function", "shapes"), FUNCTIONS.values(), ids=FUNCTIONS)
close = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture(autouse=True)
def nothing_stored(monkeypatch):
    monkeypatch.setattr(plain, "STORED_WEIGHTS", 0)  # otherwise maps as small as these take the plain form


def leaves(shapes):
    torch.manual_seed(0)
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


@every_function
def test_what_is_handed_in_stays_as_it_is(function, shapes):
    """Inputs and gradients belong to others: `out + w` gives one tensor to both, and hooks keep what they saw."""
    given = leaves(shapes)
    out, kept = function(*given), [value.detach().clone() for value in given]
    other, seen = torch.zeros_like(out, requires_grad=True), []
    out.register_hook(seen.append)
    direction = torch.randn_like(out)
    *found, of_other = torch.autograd.grad(out + other, [*given, other], direction, retain_graph=True)
    assert seen[0] is not None and torch.equal(of_other, direction) and torch.equal(seen[0], direction)
    assert all(torch.equal(value, before) for value, before in zip(given, kept, strict=True))
    again = torch.autograd.grad([out, out], given, [direction / 2, (direction / 2).contiguous()])  # read twice
    torch.testing.assert_close(again, tuple(found), **close)
    for value in given[:2]:
        out = function(*given)
        with torch.no_grad():
            value.add_(0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()


@every_function
def test_gradients_of_every_layout_and_only_those_wanted(function, shapes):
    given = leaves(shapes)
    out = function(*given)
    broadcast = torch.tensor(0.5).expand_as(out)
    expected = torch.autograd.grad(out, given, broadcast.clone(), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(out, given, broadcast), expected, **close)
    for index, gradient in enumerate(expected):
        alone = [value.detach().requires_grad_(index == number) for number, value in enumerate(given)]
        function(*alone).backward(broadcast)
        torch.testing.assert_close(alone[index].grad, gradient, **close)
        assert all(value.grad is None for number, value in enumerate(alone) if number != index)


@every_function
def test_transforms_and_forward_mode_give_derivatives(function, shapes):
    """Where a function has no rule of its own, PyTorch fails under some transforms and gives zeros under others."""
    given = leaves(shapes)
    expected = torch.autograd.grad(function(*given).square().sum(), given)
    inputs = tuple(value.detach() for value in given)
    numbers = tuple(range(len(inputs)))
    found = torch.func.grad(lambda *values: function(*values).square().sum(), numbers)(*inputs)
    torch.testing.assert_close(found, expected, **close)
    twice = torch.func.vmap(function)(*(torch.stack([value, -value]) for value in inputs))
    torch.testing.assert_close(twice[1], function(*(-value for value in inputs)), **close)

    exact = [value.double() for value in inputs]
    steps = [torch.randn_like(value) for value in exact]
    ahead, behind = (function(*(x + sign * 1e-6 * d for x, d in zip(exact, steps, strict=True))) for sign in (1, -1))
    slope = ((ahead - behind) / 2e-6).float()
    tangents = tuple(step.float() for step in steps)
    torch.testing.assert_close(torch.func.jvp(function, inputs, tangents)[1], slope, **close)
    with forward_ad.dual_level():
        out = function(*(forward_ad.make_dual(x, d) for x, d in zip(given, tangents, strict=True)))
        torch.testing.assert_close(forward_ad.unpack_dual(out).tangent, slope, **close)


@every_function
def test_second_derivatives_are_whole_or_refused(function, shapes):
    """A penalty on gradients under a constant direction, for which `once_differentiable` would lack a term."""
    given = leaves(shapes)
    direction = torch.randn_like(function(*given))

    def penalty(values, compute):
        gradients = torch.autograd.grad(compute(*values), values, direction, create_graph=True)
        return torch.stack([gradient.square().sum() for gradient in gradients]).sum()

    try:
        found = torch.autograd.grad(penalty(given, function), given)
    except RuntimeError as error:
        assert "relative_attention_backward" in str(error)
        return
    exact = [value.detach().double().requires_grad_() for value in given]
    direction = direction.double()
    steps = [torch.randn_like(value) for value in exact]
    sums = [
        penalty([(x + sign * 1e-5 * d).detach().requires_grad_() for x, d in zip(exact, steps, strict=True)], function)
        for sign in (1, -1)
    ]
    slope = (sums[0] - sums[1]) / 2e-5
    along = sum((gradient * step).sum() for gradient, step in zip(found, steps, strict=True))
    torch.testing.assert_close(along, slope, rtol=1e-3, atol=1e-2)
