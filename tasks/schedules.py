"""Learning rates over the iterations of a run, after a linear warm-up."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tasks.errors import TaskError
from tasks.ranges import check_range


@dataclass(frozen=True)
class RunLength:
    """How long a run is.

    Attributes:
        steps: Optimiser steps of the whole run; none where only time limits it.
        steps_per_epoch: Optimiser steps of one epoch.
    """

    steps: int | None
    steps_per_epoch: int

    def require_steps(self) -> int:
        """The steps of the run, for a schedule that spreads over them.

        Raises:
            TaskError: Only time limits the run.
        """
        if self.steps is None:
            raise TaskError(
                "--trainer.max_time is a limit, not a length over which the learning rate could decay; give "
                "--trainer.max_steps or --trainer.max_epochs as well, or --model.lr_schedule Constant"
            )
        return self.steps


class Schedule(LambdaLR):
    """Base of schedules: a linear warm-up, then a factor that a subclass derives from the progress of the run.

    A schedule is stepped once per optimiser step, and knows from the trainer how long the run is. A checkpoint brings
    only the position back: length, base rates and all other options are those of the command that continues the run.

    Args:
        optimizer: Holds the base learning rate of each parameter group.
        length: Length of the run.
        warmup_steps: Steps over which the factor rises linearly to the schedule's own.
        warmup_epochs: The same in epochs; added to the steps.
        warmup_factor: Factor at step 0, 0..1.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        length: RunLength,
        warmup_steps: int = 0,
        warmup_epochs: float = 0.0,
        warmup_factor: float = 0.001,
    ) -> None:
        check_range("warmup_steps", warmup_steps, 0)
        check_range("warmup_epochs", warmup_epochs, 0)
        check_range("warmup_factor", warmup_factor, 0, 1)
        self.total_steps, self.steps_per_epoch = length.steps, length.steps_per_epoch
        self._options = [{name: group[name] for name in optimizer.defaults} for group in optimizer.param_groups]
        self.warmup_steps = warmup_steps + round(warmup_epochs * length.steps_per_epoch)
        self.warmup_factor = warmup_factor
        super().__init__(optimizer, self._factor_at)

    def state_dict(self) -> dict[str, Any]:
        """The position, and the length that it belongs to."""
        return {"last_epoch": self.last_epoch, "total_steps": self.total_steps, "steps_per_epoch": self.steps_per_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes to the position of a checkpoint, with this command's length, rates and optimiser options."""
        before = state_dict.get("total_steps")
        if before != self.total_steps and state_dict.get("steps_per_epoch") == self.steps_per_epoch:
            rank_zero_info(
                f"the run is now {self.total_steps} steps long instead of {before}: the learning rate follows the "
                f"schedule of {self.total_steps} steps from step {state_dict['last_epoch']} on"
            )
        self.move_to(int(state_dict["last_epoch"]))

    def move_to(self, step: int) -> None:
        """Sets the rates to those of a step; the optimiser keeps its momenta."""
        for group, base, options in zip(self.optimizer.param_groups, self.base_lrs, self._options, strict=True):
            group.update(options, initial_lr=base)
        self.last_epoch = step - 1
        self._step_count = step
        self.step()

    def _factor_at(self, step: int) -> float:
        factor = self.factor(0.0 if self.total_steps is None else min(step / max(self.total_steps, 1), 1.0))
        if step < self.warmup_steps:
            factor *= self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup_steps
        return factor

    @abstractmethod
    def factor(self, progress: float) -> float:
        """Factor on the base learning rate at a progress of 0..1 through the run."""


class Constant(Schedule):
    """The base learning rate to the end.

    Args:
        optimizer: Holds the base learning rate of each parameter group.
        length: Length of the run.
        warmup_steps: Steps over which the factor rises linearly to the schedule's own.
        warmup_epochs: The same in epochs; added to the steps.
        warmup_factor: Factor at step 0, 0..1.
    """

    def factor(self, progress: float) -> float:
        """1."""
        return 1.0


class Cosine(Schedule):
    """Half a cosine from 1 down to a final factor (Loshchilov and Hutter, arXiv 1608.03983, without restarts).

    Args:
        optimizer: Holds the base learning rate of each parameter group.
        length: Length of the run.
        warmup_steps: Steps over which the factor rises linearly to the schedule's own.
        warmup_epochs: The same in epochs; added to the steps.
        warmup_factor: Factor at step 0, 0..1.
        final_factor: Factor at the end.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        length: RunLength,
        warmup_steps: int = 0,
        warmup_epochs: float = 0.0,
        warmup_factor: float = 0.001,
        final_factor: float = 0.0,
    ) -> None:
        length.require_steps()
        self.final_factor = final_factor
        super().__init__(optimizer, length, warmup_steps, warmup_epochs, warmup_factor)

    def factor(self, progress: float) -> float:
        """Half a cosine."""
        return self.final_factor + (1 - self.final_factor) * 0.5 * (1 + math.cos(math.pi * progress))


class MultiStep(Schedule):
    """Times `gamma` at each milestone: the schedule of the COCO baselines.

    Args:
        optimizer: Holds the base learning rate of each parameter group.
        length: Length of the run.
        warmup_steps: Steps over which the factor rises linearly to the schedule's own.
        warmup_epochs: The same in epochs; added to the steps.
        warmup_factor: Factor at step 0, 0..1.
        milestones: Where the factor changes, in `unit`; 8 and 11 epochs are the 1x schedule of 12.
        unit: `fraction` of the run, `epochs` or `steps`.
        gamma: Factor at each milestone.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        length: RunLength,
        warmup_steps: int = 0,
        warmup_epochs: float = 0.0,
        warmup_factor: float = 0.001,
        milestones: tuple[float, ...] = (8 / 12, 11 / 12),
        unit: Literal["fraction", "epochs", "steps"] = "fraction",
        gamma: float = 0.1,
    ) -> None:
        steps = length.require_steps()
        if list(milestones) != sorted(milestones) or min(milestones, default=0) < 0:
            raise TaskError(f"milestones is {list(milestones)}, expected rising numbers such as [8,11]")
        per_run = {"fraction": 1.0, "epochs": steps / length.steps_per_epoch, "steps": steps}[unit]
        self.milestones, self.gamma = [milestone / per_run for milestone in milestones], gamma
        super().__init__(optimizer, length, warmup_steps, warmup_epochs, warmup_factor)

    def factor(self, progress: float) -> float:
        """Gamma to the number of milestones passed."""
        # A step that lies on a milestone must not miss it by a rounding error.
        return float(self.gamma ** sum(progress >= milestone - 1e-9 for milestone in self.milestones))


class Polynomial(Schedule):
    """(1 - progress) ** power, down to a final factor: the schedule of the ADE20K baselines.

    MMSegmentation's `eta_min: 1e-4` at a base rate of 0.01 is `final_factor: 0.01`.

    Args:
        optimizer: Holds the base learning rate of each parameter group.
        length: Length of the run.
        warmup_steps: Steps over which the factor rises linearly to the schedule's own.
        warmup_epochs: The same in epochs; added to the steps.
        warmup_factor: Factor at step 0, 0..1.
        power: Exponent.
        final_factor: Factor at the end.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        length: RunLength,
        warmup_steps: int = 0,
        warmup_epochs: float = 0.0,
        warmup_factor: float = 0.001,
        power: float = 0.9,
        final_factor: float = 0.01,
    ) -> None:
        length.require_steps()
        check_range("power", power, 0)
        self.power, self.final_factor = power, final_factor
        super().__init__(optimizer, length, warmup_steps, warmup_epochs, warmup_factor)

    def factor(self, progress: float) -> float:
        """A power of what is left of the run."""
        return float(self.final_factor + (1 - self.final_factor) * (1 - progress) ** self.power)


ScheduleBuilder = Callable[[Optimizer, RunLength], Schedule]
"""Builds a schedule from an optimiser and the length of the run."""
