"""One process of two: gradients of every case under DistributedDataParallel."""

from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from tests.attention.operators import MIXERS, OTHERS, REFINEMENTS, Case, make_inputs, make_operator

SIZES = ((5, 6), (6, 3))
"""Rows and columns of the map that each process gets."""


def loss(operator: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """A number that depends on every output."""
    return operator(*inputs).square().sum()


def double_inputs(case: Case, rank: int) -> tuple[torch.Tensor, ...]:
    """The share of one process."""
    return tuple(value.detach().double() for value in make_inputs(case, *SIZES[rank]))


def save_gradients(rank: int, folder: Path) -> None:
    """Saves the gradients of every case after two steps, or the error that it died of."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found: dict[str, object] = {}
    for case in [*REFINEMENTS, *MIXERS, *OTHERS]:
        operator = make_operator(case).double()
        if not any(True for _ in operator.parameters()):
            continue
        parallel = DistributedDataParallel(operator)
        try:
            for _ in range(2):  # a parameter without gradient is noticed at the second step
                operator.zero_grad()
                loss(parallel, double_inputs(case, rank)).backward()
        except RuntimeError as error:
            found[case.name] = str(error)
            if "Expected to have finished reduction" not in found[case.name]:
                raise
        else:
            found[case.name] = {name: value.grad for name, value in operator.named_parameters()}
    torch.save(found, folder / f"rank{rank}.pt")
    distributed.destroy_process_group()
