"""Counts of all processes of a distributed run."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether there are other processes, which then must make the same calls."""
    return dist.is_available() and dist.is_initialized()


def summed(counts: Tensor) -> Tensor:
    """The sum of integers over all processes, on the CPU; a collective call."""
    if not is_distributed():
        return counts
    # NCCL moves CUDA tensors only; counts stay on the CPU.
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
    total = counts.to(device, copy=True)
    dist.all_reduce(total)
    return total.cpu()


def gathered(part: Any) -> list[Any]:
    """What every process has, by rank; a collective call."""
    if not is_distributed():
        return [part]
    parts = [None] * dist.get_world_size()
    dist.all_gather_object(parts, part)
    return parts
