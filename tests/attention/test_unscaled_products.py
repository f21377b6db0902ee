"""Products of queries and keys that no factor scales stay in range in half precision, as scaled ones do."""

from functools import partial

import pytest
import torch

from attention import (
    ELSA,
    AttentionStem,
    BottleneckAttention,
    HaloAttention,
    LocalFilter,
    NonLocal,
    StandAloneSelfAttention,
)

OPERATORS = {
    "stand-alone": partial(StandAloneSelfAttention, 32, 32, heads=4),
    "elsa": partial(ELSA, 32, 32, heads=4, kernel_size=3),
    "stem": partial(AttentionStem, 3, 32),
    "local": partial(LocalFilter, 32, 32, head_channels=8, scale=1.0),
    "bottleneck": partial(BottleneckAttention, 32, 32, heads=4),
    "halo": partial(HaloAttention, 32, 32, heads=4),
    "non-local": partial(NonLocal, 32),
}


DEVIATIONS = 5000  # of the input; from about 15,000 on it is itself beyond 65,504, the end of float16
SCALED = {
    "stand-alone, scaled": partial(StandAloneSelfAttention, 32, 32, heads=4, scale=8**-0.5),
    "local, scaled": partial(LocalFilter, 32, 32, head_channels=8),
    "non-local, scaled": partial(NonLocal, 32, scale=True),
}


def check_finite(operator, x):
    """Output, and gradients of its mean in the input and all parameters."""
    out = operator(x)
    out.float().mean().backward()
    assert out.isfinite().all() and out.any()
    assert x.grad.isfinite().all()
    assert [name for name, value in operator.named_parameters() if not value.grad.isfinite().all()] == []


def large(name, dtype):
    torch.manual_seed(0)
    return (DEVIATIONS * torch.randn(2, 3 if name == "stem" else 32, 12, 16)).to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [*OPERATORS, *SCALED])
def test_maps_of_five_thousand_deviations_give_finite_values_and_gradients(name, dtype):
    x = large(name, torch.float32)
    with torch.autocast("cpu", dtype):
        check_finite((OPERATORS | SCALED)[name](), x)


@pytest.mark.parametrize("name", [*OPERATORS, *SCALED])
def test_parameters_in_half_precision_give_finite_values_and_gradients(name):
    check_finite((OPERATORS | SCALED)[name]().half(), large(name, torch.float16))
