"""How long a run is: optimiser steps and epochs, from the command line of this start, never from a checkpoint."""

import math

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_info

from tasks.errors import TaskError
from tasks.schedules import RunLength, Schedule


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


def images_per_step(trainer: Trainer) -> int:
    """Images of an optimiser step, over all processes and accumulated batches."""
    batch_size = getattr(trainer.datamodule, "batch_size", 1)
    return int(batch_size * trainer.world_size * trainer.accumulate_grad_batches)


def align_schedule(trainer: Trainer, images_before: int) -> None:
    """Lets the schedule of a continued run go on where it is, when a step has another number of images than before.

    A run of `max_epochs` goes on at the same point of its epochs, with the steps that the epochs have now; a run of
    `max_steps` goes on counting steps. Either is said.

    Args:
        trainer: A trainer that is about to train, with everything restored.
        images_before: Images of an optimiser step before the interruption.
    """
    now = images_per_step(trainer)
    if now == images_before:
        return
    change = f"a step now has {now} images instead of {images_before}"
    if trainer.max_steps != -1:
        rank_zero_info(f"{change}; the run and its schedule go on counting steps, from {trainer.global_step} on")
        return
    loop = trainer.fit_loop
    batches = loop.epoch_loop.batch_progress.current.ready if loop.restarting else 0
    done = math.ceil(batches / trainer.accumulate_grad_batches)
    position = loop.epoch_progress.current.processed * steps_per_epoch(trainer) + done
    for config in trainer.lr_scheduler_configs:
        if isinstance(config.scheduler, Schedule):
            config.scheduler.move_to(position)
    rank_zero_info(f"{change}; the schedule goes on at the same point of its epochs, as in a run with such steps")
