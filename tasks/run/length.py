"""How long a run is: optimiser steps and epochs, from the command line of this start, never from a checkpoint."""

import math

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from tasks.errors import TaskError
from tasks.schedules import RunLength


def steps_per_epoch(trainer: Trainer) -> int:
    """Optimiser steps of an ordinary epoch; the last group of an accumulation may be smaller."""
    trainer.fit_loop.setup_data()
    return max(1, math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches))


def run_length(trainer: Trainer) -> RunLength:
    """Length of the whole run under the settings of this start.

    The first limit that is reached ends a run: `max_steps` or `max_epochs`. `max_time` ends it earlier, but is no
    length: a schedule cannot be spread over it.
    """
    per_epoch = steps_per_epoch(trainer)
    limits = []
    if trainer.max_steps != -1:
        limits.append(trainer.max_steps)
    if trainer.max_epochs not in (None, -1):
        limits.append(trainer.max_epochs * per_epoch)
    return RunLength(min(limits) if limits else None, per_epoch)


def require_end(trainer: Trainer) -> RunLength:
    """The length of a run that has one, or a time limit.

    Raises:
        TaskError: The run would never end.
    """
    length = run_length(trainer)
    if length.steps is None and not has_time_limit(trainer):
        raise TaskError("the run has no end; give --trainer.max_epochs or --trainer.max_steps")
    return length


def has_time_limit(trainer: Trainer) -> bool:
    """Whether `--trainer.max_time` is given."""
    return any(isinstance(callback, Timer) and callback._duration is not None for callback in trainer.callbacks)
