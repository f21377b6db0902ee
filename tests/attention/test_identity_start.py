"""The wrapper that fades a refinement in."""

from collections.abc import Callable
from typing import Optional

import jsonargparse
import pytest
import torch

from attention import CBAM, IdentityStart, Refine, SqueezeExcitation, record_attention
from tests.attention.operators import every_refinement, make_operator


def reference(operator, x):
    return x + operator.alpha * (operator.operator(x) - x)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
def test_equation_forward_and_backward(size, agree):
    torch.manual_seed(0)
    agree(IdentityStart(6, lambda channels: SqueezeExcitation(channels, 2)), reference, torch.randn(2, 6, *size))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@every_refinement
def test_every_refinement_starts_as_the_identity_and_learns(case, memory_format):
    """Also one that is the identity at its own start: of two zeros in a row neither would learn."""
    torch.manual_seed(0)
    operator = IdentityStart(16, case.make)
    x = torch.randn(4, 16, 6, 5).to(memory_format=memory_format)
    for training in (False, True):
        assert torch.equal(operator.train(training)(x), x)
        assert torch.equal(operator.operator(x), x) == operator.operator.starts_as_identity
    operator, x = operator.double(), x.double()  # sees small steps
    target = make_operator(case).double()(x).detach()  # the same refinement, where it has learnt something
    optimizer = torch.optim.SGD(operator.parameters(), lr=1e-2)
    before = {name: value.detach().clone() for name, value in operator.operator.named_parameters()}
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        losses.append((operator(x) - target).square().mean())
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > losses[1] > losses[2]
    moved = {name for name, value in operator.operator.named_parameters() if not torch.equal(value, before[name])}
    assert moved or not before, "of its parameters none learns"


def test_autocast_leaves_the_numbers_unchanged():
    x = torch.randn(2, 16, 5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(IdentityStart(16, lambda c: CBAM(c, 4))(x), x)
        half = IdentityStart(16, lambda c: CBAM(c, 4))(x.bfloat16())
    assert torch.equal(half, x.bfloat16())


def test_one_is_the_refinement_itself():
    torch.manual_seed(0)
    operator, x = IdentityStart(16, lambda c: CBAM(c, 4)).eval(), torch.randn(2, 16, 5, 6)
    torch.nn.init.ones_(operator.alpha)
    torch.testing.assert_close(operator(x), operator.operator(x))


def test_maps_of_the_refinement_are_recorded():
    operator = IdentityStart(16, lambda c: CBAM(c, 4))
    with record_attention(operator) as maps:
        operator(torch.randn(2, 16, 5, 6))
    assert [found.name for found in maps["operator.channel"] + maps["operator.spatial"]] == ["channel", "position"]


def test_configuration_files_nest_it():
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--attention", type=Optional[Callable[[int], Refine]])  # noqa: UP045 - as hosts declare it
    found = parser.parse_object(
        {
            "attention": {
                "class_path": "attention.IdentityStart",
                "init_args": {"operator": {"class_path": "attention.CBAM", "init_args": {"reduction": 4}}},
            }
        }
    )
    operator = parser.instantiate_classes(found).attention(16)
    assert isinstance(operator, IdentityStart) and isinstance(operator.operator, CBAM)
    assert operator.operator.channel.fc1.out_channels == 4
    assert operator.operator.channels == operator.channels == 16
