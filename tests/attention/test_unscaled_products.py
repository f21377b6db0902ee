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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", OPERATORS)
def test_maps_of_a_thousand_deviations_give_finite_values_and_gradients(name, dtype):
    torch.manual_seed(0)
    operator = OPERATORS[name]()
    x = (1000 * torch.randn(2, 3 if name == "stem" else 32, 12, 16)).requires_grad_()
    with torch.autocast("cpu", dtype):
        out = operator(x)
    out.float().sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all() and out.any()
