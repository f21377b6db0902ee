"""Learning rates over the iterations of a run, after a linear warm-up."""

import math
from abc import abstractmethod
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class Schedule(LambdaLR):
    """Base of schedules: a linear warm-up, then a factor that a subclass derives from the progress of the run.

    A schedule is stepped once per optimiser step, and knows from the trainer how many steps the run has.

    Args:
        optimizer: Holds the base learning rate of each parameter group.
        total_steps: Optimiser steps of the whole run.
        warmup_steps: Steps over which the factor rises linearly to the schedule's own.
        warmup_factor: Factor at step 0, 0..1.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, warmup_factor: float = 0.001
    ) -> None:
        self.total_steps, self.warmup_steps, self.warmup_factor = total_steps, warmup_steps, warmup_factor
        super().__init__(optimizer, self._factor_at)

    def _factor_at(self, step: int) -> float:
        factor = self.factor(min(step / max(self.total_steps, 1), 1.0))
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
        total_steps: Optimiser steps of the whole run.
        warmup_steps: Steps over which the factor rises linearly to the schedule's own.
        warmup_factor: Factor at step 0, 0..1.
    """

    def factor(self, progress: float) -> float:
        """1."""
        return 1.0


class Cosine(Schedule):
    """Half a cosine from 1 down to a final factor (Loshchilov and Hutter, arXiv 1608.03983, without restarts).

    Args:
        optimizer: Holds the base learning rate of each parameter group.
        total_steps: Optimiser steps of the whole run.
        warmup_steps: Steps over which the factor rises linearly to the schedule's own.
        warmup_factor: Factor at step 0, 0..1.
        final_factor: Factor at the end.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup_steps: int = 0,
        warmup_factor: float = 0.001,
        final_factor: float = 0.0,
    ) -> None:
        self.final_factor = final_factor
        super().__init__(optimizer, total_steps, warmup_steps, warmup_factor)

    def factor(self, progress: float) -> float:
        """Half a cosine."""
        return self.final_factor + (1 - self.final_factor) * 0.5 * (1 + math.cos(math.pi * progress))


class MultiStep(Schedule):
    """Times `gamma` at each milestone: the schedule of the COCO baselines.

    Args:
        optimizer: Holds the base learning rate of each parameter group.
        total_steps: Optimiser steps of the whole run.
        warmup_steps: Steps over which the factor rises linearly to the schedule's own.
        warmup_factor: Factor at step 0, 0..1.
        milestones: Fractions of the run; 8 / 12 and 11 / 12 are the 1x schedule of 12 epochs.
        gamma: Factor at each milestone.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup_steps: int = 0,
        warmup_factor: float = 0.001,
        milestones: tuple[float, ...] = (8 / 12, 11 / 12),
        gamma: float = 0.1,
    ) -> None:
        self.milestones, self.gamma = milestones, gamma
        super().__init__(optimizer, total_steps, warmup_steps, warmup_factor)

    def factor(self, progress: float) -> float:
        """Gamma to the number of milestones passed."""
        return float(self.gamma ** sum(progress >= milestone for milestone in self.milestones))


class Polynomial(Schedule):
    """(1 - progress) ** power, down to a final factor: the schedule of the ADE20K baselines.

    MMSegmentation's `eta_min: 1e-4` at a base rate of 0.01 is `final_factor: 0.01`.

    Args:
        optimizer: Holds the base learning rate of each parameter group.
        total_steps: Optimiser steps of the whole run.
        warmup_steps: Steps over which the factor rises linearly to the schedule's own.
        warmup_factor: Factor at step 0, 0..1.
        power: Exponent.
        final_factor: Factor at the end.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup_steps: int = 0,
        warmup_factor: float = 0.001,
        power: float = 0.9,
        final_factor: float = 0.01,
    ) -> None:
        self.power, self.final_factor = power, final_factor
        super().__init__(optimizer, total_steps, warmup_steps, warmup_factor)

    def factor(self, progress: float) -> float:
        """A power of what is left of the run."""
        return float(self.final_factor + (1 - self.final_factor) * (1 - progress) ** self.power)


ScheduleBuilder = Callable[[Optimizer, int], Schedule]
"""Builds a schedule from an optimiser and the number of steps of the run."""
