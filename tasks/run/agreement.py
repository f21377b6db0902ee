"""What all processes of a run decide together at a boundary: to stop, to save, and whether the numbers are finite."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Decision:
    """The largest of what the processes have said.

    Attributes:
        stop: Number of a stop signal, 0 for none.
        save: A save by the clock is due.
        broken: Some number of an earlier step is not finite.
    """

    stop: int
    save: bool
    broken: bool


class Agreement:
    """Combines what the processes say; of one process, what it says.

    The collective runs over CPU memory (gloo) beside the gradients', so that no GPU is waited for. It costs a round
    trip over the network in each step.
    """

    def __init__(self) -> None:
        self._group: Any = None
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")

    def on(self, stop: int, save: bool = False, broken: bool = False) -> Decision:
        """The decision of all processes; a collective call."""
        if self._group is None:
            return Decision(stop, save, broken)
        said = torch.tensor([stop, int(save), int(broken)], dtype=torch.int32)
        dist.all_reduce(said, dist.ReduceOp.MAX, self._group)
        stop, due, bad = said.tolist()
        return Decision(stop, bool(due), bool(bad))

    def gather(self, words: str) -> list[str]:
        """What each process has to say, in order of rank; a collective call."""
        if self._group is None:
            return [words]
        said: list[str] = [""] * dist.get_world_size()
        dist.all_gather_object(said, words, self._group)
        return said
