"""Every operator once, in the sizes that the common tests use: the cases of all families, and what is made of them.

Tests give refinements 16 and 24 channels, mixers (16, 16), (16, 32) and (32, 16), unless the case has pairs of its own.
"""

import pytest
import torch
from torch import Tensor, nn

from tests.attention.cases import context, gates, local, long_range, relative, scores
from tests.attention.cases.case import Case

REFINEMENTS = gates.REFINEMENTS + context.REFINEMENTS + long_range.REFINEMENTS
MIXERS = local.MIXERS + relative.MIXERS + long_range.MIXERS
OTHERS = scores.OTHERS
"""Operators that are neither, with inputs of their own."""


def arguments(case: Case) -> tuple[int, ...]:
    """What `make` and `parameters` get in the tests that run one variant of every case."""
    if case in REFINEMENTS:
        return (16,)
    if case in MIXERS:
        return (*case.channels[min(1, len(case.channels) - 1)], case.strides[-1])
    return ()


def variants(case: Case) -> list[tuple[int, ...]]:
    """What `make` gets in the tests that run a case with every stride."""
    if case in MIXERS:
        return [(*arguments(case)[:2], stride) for stride in case.strides]
    return [arguments(case)]


def make_inputs(case: Case, rows: int, columns: int) -> tuple[Tensor, ...]:
    """Inputs of a case with two samples, as leaves that want gradients."""
    generator = torch.Generator().manual_seed(rows * 100 + columns)
    if case.inputs is not None:
        with torch.random.fork_rng():
            torch.manual_seed(rows * 100 + columns)
            inputs = case.inputs(rows, columns)
    else:
        inputs = (torch.randn(2, arguments(case)[0], rows, columns, generator=generator),)
    return tuple(value.requires_grad_() for value in inputs)


def make_operator(case: Case, *given: int, randomise: bool = True) -> nn.Module:
    """The operator of a case with random parameters, so that no layer which starts at zero hides the others."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        operator = case.make(*(given or arguments(case)))
    if randomise:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for value in operator.parameters():
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
            for name, value in operator.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return operator


every_refinement = pytest.mark.parametrize("case", REFINEMENTS, ids=lambda case: case.name)
every_mixer = pytest.mark.parametrize("case", MIXERS, ids=lambda case: case.name)
every_operator = pytest.mark.parametrize("case", [*REFINEMENTS, *MIXERS, *OTHERS], ids=lambda case: case.name)
every_device = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
