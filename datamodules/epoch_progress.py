"""Which images of an epoch a run has seen: what a checkpoint remembers so that each is seen exactly once."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.epoch_plan import EpochPlan, StepLayout


class EpochProgress:
    """Knows the steps of the epoch in progress, how many are done, and how to go on after an interruption.

    With equal settings the remaining steps are those of the uninterrupted epoch. With another batch size, number of
    processes or grouping, the images that are not yet seen are arranged anew, in the epoch's own random order. The
    order is a function of the seed, so the record of one process describes the images of all.

    Args:
        epoch: Tells the number of the epoch that the trainer is in.
        steps_done: Tells how many steps of it the trainer has done.

    Attributes:
        steps: Steps of an ordinary epoch.
    """

    def __init__(self, epoch: Callable[[], int], steps_done: Callable[[], int]) -> None:
        self._epoch, self._steps_done = epoch, steps_done
        self.steps = 0
        self._layout: StepLayout | None = None
        self._groups: Sequence[int] | None = None
        self._record: dict[str, Any] | None = None
        self._plan: EpochPlan | None = None  # of the last epoch that has begun
        self._done_before = 0  # steps of this plan that are done, when the trainer's count was _count_before
        self._count_before = 0

    def lay_out(self, layout: StepLayout, groups: Sequence[int] | None, steps: int) -> None:
        """Says how this run makes steps of images.

        Args:
            layout: How images become steps.
            groups: Group of each image, where the layout is grouped.
            steps: Steps of an ordinary epoch.
        """
        self._layout, self._groups, self.steps = layout, groups, steps

    def begin(self, epoch: int) -> tuple[EpochPlan, int]:
        """Starts an epoch, or goes on with an interrupted one.

        Returns:
            The steps of the epoch, and how many of them are done.
        """
        self._plan, self._done_before = self._start_of(epoch)
        self._count_before = self._steps_done()
        return self._plan, self._done_before

    def remaining(self) -> int:
        """Steps of the trainer's epoch that are not done."""
        plan, done = self._position()
        return len(plan) - done

    def continuation(self) -> str | None:
        """One sentence on an interrupted epoch that goes on with other settings, or None."""
        record = self._record
        if record is None or self._layout is None or record["finished"] or not record["seen"].any():
            return None
        before, layout = StepLayout(**record["layout"]), self._layout
        if before == layout:
            return None
        if before.size != layout.size:
            return (
                f"epoch {record['epoch']} was interrupted in a training split of {before.size} images and starts over: "
                f"it has {layout.size} now"
            )
        plan, _ = self._resume(record)
        seen = int(plan.seen.sum())
        follow = int(plan.seen_after(len(plan)).sum()) - seen
        left_out = f", {plan.left_out} are left out because they fill no step" if plan.left_out else ""
        return (
            f"epoch {record['epoch']} was interrupted after {seen} of {seen + follow + plan.left_out} images with "
            f"{before} (images x processes per step); the other {follow} follow with {layout}{left_out}"
        )

    def state_dict(self) -> dict[str, Any]:
        """The images seen so far, as plain data; to be asked for after a step or at the end of an epoch."""
        if self._layout is None:
            return {}
        if self._plan is None and self._record is not None:
            return self._record  # saved again before the first step
        plan, done = self._position()
        return {
            "epoch": plan.epoch,
            "layout": asdict(plan.layout),
            "steps": done,
            "finished": done >= len(plan),
            "seen_before": _packed(plan.seen),
            "seen": _packed(plan.seen_after(done)),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the record of an interrupted run; the epoch goes on from there when it begins."""
        self._record, self._plan = state or None, None

    def _position(self) -> tuple[EpochPlan, int]:
        if self._plan is not None and self._plan.epoch == self._epoch():
            return self._plan, self._done_before + self._steps_done() - self._count_before
        return self._start_of(self._epoch())

    def _start_of(self, epoch: int) -> tuple[EpochPlan, int]:
        assert self._layout is not None, "lay_out comes first"
        record = self._record if self._plan is None else None
        if record is not None and record["epoch"] == epoch and record["layout"]["size"] == self._layout.size:
            return self._resume(record)
        # A checkpoint without a record, of another program say, is taken as one of equal settings.
        done = self._steps_done() if self._plan is None and self._record is None else 0
        return self._new_plan(epoch, np.zeros(self._layout.size, dtype=bool), self.steps), done

    def _resume(self, record: dict[str, Any]) -> tuple[EpochPlan, int]:
        size = record["layout"]["size"]
        seen_before, seen = (_unpacked(record[name], size) for name in ("seen_before", "seen"))
        if record["finished"]:
            return self._new_plan(record["epoch"], seen, steps=0), 0
        if StepLayout(**record["layout"]) == self._layout:
            plan = self._new_plan(record["epoch"], seen_before, self.steps)
            if np.array_equal(plan.seen_after(record["steps"]), seen):
                return plan, record["steps"]
        return self._new_plan(record["epoch"], seen, self.steps), 0

    def _new_plan(self, epoch: int, seen: NDArray[np.bool_], steps: int) -> EpochPlan:
        assert self._layout is not None
        return EpochPlan(self._layout, self._groups, epoch, seen, steps)


def _packed(seen: NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(np.packbits(seen))


def _unpacked(bits: Tensor, size: int) -> NDArray[np.bool_]:
    return np.unpackbits(bits.numpy(), count=size).astype(bool)
