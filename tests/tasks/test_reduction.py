"""Divisors of losses over several processes."""

import pytest
import torch
from torch import distributed

from tasks.reduction import reduce_mean


def test_one_process_has_its_own_number() -> None:
    assert reduce_mean(torch.tensor(7)).item() == 7.0
    assert reduce_mean(torch.tensor([0])).item() == 1.0
    assert reduce_mean(torch.tensor(0.25), at_least=0.125).item() == 0.25
    assert reduce_mean(torch.tensor(3.0, dtype=torch.bfloat16)).dtype == torch.float32
    weight = torch.tensor(5.0, requires_grad=True)
    assert not reduce_mean(weight).requires_grad and weight.item() == 5.0


@pytest.mark.parametrize("counts", [(3, 9), (0, 4), (1, 0), (0, 0)])
def test_processes_average_to_what_one_computes(counts: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients, and so the losses, of two processes are averaged; sums and numbers of all images decide."""
    sums = (2.5, 4.75)
    expected = sum(sums) / reduce_mean(torch.tensor(sum(counts)))
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    found = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "all_reduce", lambda total, rank=rank: total.add_(counts[1 - rank]))
        found.append(sums[rank] / reduce_mean(torch.tensor(counts[rank])))
    torch.testing.assert_close(sum(found) / 2, expected)
