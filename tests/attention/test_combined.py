"""Refinements combined: against their parts, and against the operators that are such combinations."""

from functools import partial

import pytest
import torch
from torch import nn

from attention import (
    CBAM,
    ChannelAttention,
    Compose,
    CoordinateAttention,
    EfficientChannelAttention,
    IdentityStart,
    Parallel,
    SpatialAttention,
    StaticGate,
)

CHANNEL = partial(ChannelAttention, reduction=2)
X = torch.randn(2, 6, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def randomized(operator):
    for parameter in operator.parameters():
        nn.init.normal_(parameter)
    return operator.double()


@pytest.mark.parametrize(
    ("order", "build"),
    [
        ("channel_first", partial(Compose, parts=[CHANNEL, SpatialAttention])),
        ("spatial_first", partial(Compose, parts=[SpatialAttention, CHANNEL])),
        ("parallel", partial(Parallel, parts=[CHANNEL, SpatialAttention], fusion="product")),
    ],
)
def test_cbam_is_such_a_combination(order, build):
    ours, cbam = randomized(build(6)), CBAM(6, 2, order=order).double()
    for part in ours.parts:
        (cbam.channel if isinstance(part, ChannelAttention) else cbam.spatial).load_state_dict(part.state_dict())
    x, y = X.clone().requires_grad_(), X.clone().requires_grad_()
    out, expected = ours(x), cbam(y)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    out.sin().sum().backward()
    expected.sin().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("fusion", "factor"), [("sum", 1.0), ("mean", 1 / 3)])
def test_sums_of_three(fusion, factor):
    operator = randomized(Parallel(6, [StaticGate, EfficientChannelAttention, CHANNEL], fusion))
    expected = factor * sum(part(X) for part in operator.parts)
    torch.testing.assert_close(operator(X), expected, rtol=1e-9, atol=1e-9)


def test_products_are_those_of_the_gates_and_finite_at_zero():
    operator = randomized(Parallel(6, [StaticGate, StaticGate, StaticGate], "product"))
    x = torch.relu(X).requires_grad_()
    out = operator(x)
    gates = torch.stack([torch.sigmoid(part.scores) for part in operator.parts]).prod(0)
    torch.testing.assert_close(out, x * gates[:, None, None], rtol=1e-9, atol=1e-9)
    out.square().sum().backward()
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in operator.parameters())


def test_start_as_the_identity_follows_from_the_parts():
    fading = partial(IdentityStart, operator=StaticGate)
    assert Compose(6, [fading, fading]).starts_as_identity and not Compose(6, [fading, StaticGate]).starts_as_identity
    assert Parallel(6, [fading, fading], "product").starts_as_identity
    assert not Parallel(6, [fading, fading], "sum").starts_as_identity
    for build in (partial(Compose, parts=[fading, fading]), partial(Parallel, parts=[fading, fading])):
        torch.testing.assert_close(build(6).double()(X), X, rtol=1e-12, atol=1e-12)


def test_parts_may_be_combinations():
    nested = randomized(Compose(6, [partial(Parallel, parts=[CHANNEL, StaticGate]), CoordinateAttention]))
    first, second = nested.parts
    torch.testing.assert_close(nested(X), second((first.parts[0](X) + first.parts[1](X)) / 2))


def test_nothing_to_combine_is_refused():
    for operator in (Compose, Parallel):
        with pytest.raises(ValueError, match="combines nothing"):
            operator(6, [])
    with pytest.raises(ValueError, match="fusion='max' is unknown"):
        Parallel(6, [StaticGate], "max")
