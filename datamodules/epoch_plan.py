"""How the images of an epoch become steps, from its beginning or from where an interrupted run has left it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from datamodules.sampling import epoch_order, group_steps


@dataclass(frozen=True)
class StepLayout:
    """Everything that the order of an epoch depends on, apart from its number.

    Attributes:
        size: Images of the training split.
        batch_size: Images per process and step.
        world_size: Number of processes.
        grouped: The images of a step are of one orientation.
        shuffled: Every epoch has an order of its own.
        seed: Start of the random numbers behind the order.
    """

    size: int
    batch_size: int
    world_size: int
    grouped: bool = False
    shuffled: bool = True
    seed: int = 0

    @property
    def step_size(self) -> int:
        """Images of a step over all processes."""
        return self.batch_size * self.world_size

    @property
    def full_steps(self) -> int:
        """Steps of an ordinary epoch; fewer images than a step are left out."""
        return self.size // self.step_size

    def __str__(self) -> str:
        return f"{self.batch_size} x {self.world_size}{' grouped by orientation' if self.grouped else ''}"


class EpochPlan:
    """The steps of one epoch, over all processes: every image that has not been seen is in one of them.

    Fewer images than a step may be left out at the end, as in any epoch: see `step_sizes`.

    Args:
        layout: How images become steps.
        groups: Group of each image, where the layout is grouped.
        epoch: Number of the epoch; it draws the order.
        seen: (size,) bool, True for images that this epoch has seen under another layout.
        steps: Steps of an ordinary epoch, `layout.full_steps` or a limit below it. A limit counts what was seen.

    Attributes:
        left_out: Images that are neither seen nor in a step.
    """

    def __init__(
        self, layout: StepLayout, groups: Sequence[int] | None, epoch: int, seen: NDArray[np.bool_], steps: int
    ) -> None:
        self.layout, self.epoch, self.seen = layout, epoch, seen
        order, generator = epoch_order(layout.size, layout.shuffled, layout.seed, epoch)
        rest = [index for index in order if not seen[index]]
        if groups is not None:
            rest = group_steps(rest, groups, layout.step_size, generator)
        allowed = steps * layout.step_size
        images_of_epoch = layout.size if steps == layout.full_steps else allowed
        expected = max(images_of_epoch - int(seen.sum()), 0)
        # Where hardly anything was seen, less may fit into the steps of an epoch than is expected; never more steps.
        sizes = step_sizes(min(expected, allowed), layout)
        self._starts = list(accumulate(sizes, initial=0))
        self._order = rest[: self._starts[-1]]
        self.left_out = expected - len(self._order)

    def __len__(self) -> int:
        """Number of steps."""
        return len(self._starts) - 1

    def batch(self, step: int, rank: int) -> list[int]:
        """Images of a process in a step."""
        return self._order[self._starts[step] : self._starts[step + 1]][rank :: self.layout.world_size]

    def seen_after(self, steps: int) -> NDArray[np.bool_]:
        """(size,) bool, True for the images that this epoch has seen when a number of these steps is done."""
        seen = self.seen.copy()
        seen[self._order[: self._starts[min(steps, len(self))]]] = True
        return seen


def step_sizes(images: int, layout: StepLayout) -> list[int]:
    """Splits images into steps.

    All steps are full, except that the last two share what is left evenly: over steps and processes, the sizes of
    their batches differ by at most one. Where a batch would have less than 2 images (1 where the batch size is 1), for
    which batch norm has no variance, those that do not fill a step are left out.

    Returns:
        Images of each step, over all processes; less than a step is left out.
    """
    full, left = divmod(images, layout.step_size)
    parts = min(full, 1) + 1
    shared = left + (parts - 1) * layout.step_size
    if left == 0 or shared // (parts * layout.world_size) < min(layout.batch_size, 2):
        return [layout.step_size] * full
    return [layout.step_size] * (full + 1 - parts) + [(shared + place) // parts for place in reversed(range(parts))]
