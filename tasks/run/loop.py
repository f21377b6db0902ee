"""Lightning's training loop with exact boundaries: where a run may be saved, stopped and continued.

Two states are saved, whatever saves: *within an epoch*, after some of its batches, with or without a validation that is
still owed at this point; and *between epochs*. Lightning 2.6.6 guesses from five counters where a checkpoint was taken,
skips a validation that was interrupted, does not validate at the end of a run in steps, and counts an epoch that
`max_steps` cuts short as complete. Here the counters are brought into one of the two states before they are saved, and
what is owed is saved beside them.
"""

import math
from typing import Any, Protocol

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loops.fit_loop import RestartStage, _FitLoop
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.optimization.automatic import ClosureResult, _AutomaticOptimization
from lightning.pytorch.loops.training_epoch_loop import RestartStage as BatchRestartStage
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.utilities import rank_zero_info

from tasks.run.stop import StopRun


class Boundaries(Protocol):
    """Who is told that a boundary is reached; may save, and may end the run with `StopRun`."""

    def before_training(self, trainer: Trainer) -> None:
        """Before the first step of this start."""

    def after_step(self, trainer: Trainer) -> None:
        """After an optimiser step, and after the validation that followed it."""

    def stop_is_due(self) -> bool:
        """Whether all processes have agreed to stop after the step that has just been taken."""

    def stop_in_validation(self, trainer: Trainer) -> None:
        """After a validation that a stop request has cut short: the state is that before it."""

    def end_of_epoch(self, trainer: Trainer, complete: bool) -> None:
        """After an epoch and its hooks, or where the run ends within one."""


class WeightedAccumulation(_AutomaticOptimization):
    """Gives the last, smaller group of an accumulation its right weight: the mean over the batches that it has."""

    def _training_step(self, kwargs: Any) -> ClosureResult:
        result = super()._training_step(kwargs)
        loop = self.trainer.fit_loop.epoch_loop
        assert isinstance(loop, RunEpochLoop)
        weight = self.trainer.accumulate_grad_batches / loop.batches_of_group()
        if result.closure_loss is not None and weight != 1:
            result.closure_loss = result.closure_loss * weight
        return result


class RunEpochLoop(_TrainingEpochLoop):
    """The batches of an epoch.

    Args:
        trainer: The trainer.
        boundaries: Is told of boundaries.
        min_steps: As in the trainer.
        max_steps: As in the trainer.
    """

    def __init__(self, trainer: Trainer, boundaries: Boundaries, min_steps: int | None, max_steps: int) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self.automatic_optimization = WeightedAccumulation(trainer)
        self.boundaries = boundaries
        self.owes_validation = False
        self.first_batch = 0
        self._has_trained = False
        self._validated_at = -1

    restarting: bool  # Lightning's property: whether an interrupted epoch is about to go on

    def batches_of_group(self) -> int:
        """Batches whose gradients make up the current optimiser step."""
        size, done = self.trainer.accumulate_grad_batches, self.batch_progress.current.ready - 1
        first = max(done // size * size, self.first_batch)
        return min((done // size + 1) * size, int(self.trainer.num_training_batches)) - first

    def update_restart_stage(self) -> None:
        """A continued epoch has completed all batches that it has begun: nothing is to be guessed."""
        stage = BatchRestartStage.RESTARTED_ON_LAST if self.restarting else BatchRestartStage.NONE
        self._restart_stage = stage
        self.val_loop.restarting = False  # a validation that was interrupted is made again, from its beginning

    def reset(self) -> None:
        """Continues an interrupted epoch behind its completed batches, or begins one."""
        super().reset()
        self.first_batch = self.batch_progress.current.ready
        self._batches_that_stepped = self.global_step

    def advance(self, data_fetcher: Any) -> None:
        """Trains on one batch; first of all, a validation that is owed is made good."""
        if self.restarting:
            if self.owes_validation:
                self._has_trained = False
                return
            if self._is_training_done:
                raise StopIteration
            self.restarting = False  # nothing of Lightning's own handling of restarts applies
        self._has_trained = True
        super().advance(data_fetcher)

    def on_advance_end(self, data_fetcher: Any) -> None:
        """Validates where it is due, and reports the boundary."""
        try:
            if self.boundaries.stop_is_due() and not self._should_accumulate():
                self.owes_validation = self.owes_validation or self._should_check_val_fx(data_fetcher)
                self._close_batch()
            elif self._has_trained:
                super().on_advance_end(data_fetcher)
            else:
                self._make_validation_good()
        except StopRun:
            self._leave_validation()
            raise
        if not self._should_accumulate():
            self.boundaries.after_step(self.trainer)

    def note_validation(self) -> None:
        """Remembers that the weights of this step have been validated, before anything is saved of it."""
        self.owes_validation = False
        self._validated_at = self.total_batch_idx

    def on_save_checkpoint(self) -> dict[str, Any]:
        """Whether a validation is owed at this point."""
        state = super().on_save_checkpoint()
        epochs = self.trainer.fit_loop.epoch_progress.current
        is_within_epoch = epochs.processed < epochs.started and self.batch_progress.current.processed > 0
        return state | {"owes_validation": is_within_epoch and self._should_check_val_fx(None)}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Takes over what is owed."""
        super().on_load_checkpoint(state_dict)
        self.owes_validation = state_dict.get("owes_validation", False) and self.trainer.enable_validation
        self._validated_at = -1 if self.owes_validation else self.total_batch_idx

    def state_dict(self, destination: dict[str, Any] | None = None, prefix: str = "") -> dict[str, Any]:
        """The counters, with every batch complete whose optimiser step has been taken."""
        state = super().state_dict(destination, prefix)
        _complete(state[prefix + "batch_progress"])
        return state

    def _broadcast_sigterm_tensor(self) -> None:
        """Nothing: the boundaries agree on signals, without a collective of their own in every batch."""

    def _close_batch(self) -> None:
        if self._has_trained:
            self._batches_that_stepped += 1
            self._save_loggers_on_train_batch_end()

    def _make_validation_good(self) -> None:
        self._batches_that_stepped -= 1  # its numbers belong to the step before, as they would have
        super().on_advance_end(None)

    def _leave_validation(self) -> None:
        """Goes back from the middle of a validation to the state before it, and reports that."""
        if not self.trainer.validating:
            return
        self.trainer.training = True
        for callback in self.trainer.callbacks:
            if isinstance(callback, WeightAveraging) and callback._average_model is not None:
                callback._swap_models(self.trainer.lightning_module)  # validation had put the average in place
        self._forget_batches_of_validation()
        self.owes_validation = True
        self._close_batch()
        self.boundaries.stop_in_validation(self.trainer)

    def _forget_batches_of_validation(self) -> None:
        progress = self.val_loop.batch_progress
        for name in ("ready", "started", "processed", "completed"):
            setattr(progress.total, name, getattr(progress.total, name) - getattr(progress.current, name))
        progress.reset_on_run()

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:
        if not self.trainer.enable_validation or self._validated_at == self.total_batch_idx:
            return False
        ends_here = not self._should_accumulate() and self._run_ends_here()
        return bool(self.owes_validation or ends_here or super()._should_check_val_fx(data_fetcher))

    def _run_ends_here(self) -> bool:
        fit_loop = self.trainer.fit_loop
        stops_early = self.trainer.should_stop and fit_loop._can_stop_early
        last_step = self.max_steps != -1 and self.global_step >= self.max_steps
        last_epoch = fit_loop.max_epochs not in (None, -1) and self.trainer.current_epoch + 1 >= fit_loop.max_epochs
        return stops_early or last_step or (last_epoch and self._num_ready_batches_reached())


class RunFitLoop(_FitLoop):
    """The epochs of a run."""

    epoch_loop: RunEpochLoop

    @property
    def restarting(self) -> bool:
        """Whether an interrupted epoch is about to go on."""
        return bool(self._restarting)

    @restarting.setter
    def restarting(self, restarting: bool) -> None:
        """Only within an epoch is there something to restart."""
        unfinished = self.epoch_progress.current.processed < self.epoch_progress.current.started
        _Loop.restarting.fset(self, restarting and unfinished)

    @property
    def done(self) -> bool:
        """As Lightning has it, but not while a validation is owed."""
        if self.restarting and self.epoch_loop.owes_validation and self.max_batches != 0:
            return False
        return bool(super().done)

    def reset(self) -> None:
        """Continues an epoch that was interrupted, or begins one."""
        torch.set_grad_enabled(True)
        self._restart_stage = RestartStage.RESTARTED_MID_EPOCH if self.restarting else RestartStage.NONE
        if self.restarting:
            self._count_batches_of_this_layout()
        self.epoch_loop.update_restart_stage()

    def on_run_start(self) -> None:
        """The first boundary."""
        super().on_run_start()
        self.epoch_loop.boundaries.before_training(self.trainer)

    def on_advance_end(self) -> None:
        """Ends an epoch; one that the end of the run cuts short is saved as what it is, an unfinished one."""
        complete = self.epoch_loop._num_ready_batches_reached()
        boundaries = self.epoch_loop.boundaries
        if not complete:
            boundaries.end_of_epoch(self.trainer, complete=False)
        super().on_advance_end()
        if complete:
            boundaries.end_of_epoch(self.trainer, complete=True)

    def state_dict(self, destination: dict[str, Any] | None = None, prefix: str = "") -> dict[str, Any]:
        """The counters, with the epoch complete that has been processed."""
        state = super().state_dict(destination, prefix)
        _complete(state[prefix + "epoch_progress"])
        return state

    def _count_batches_of_this_layout(self) -> None:
        """Counts the completed batches of the interrupted epoch as batches of this start.

        With another batch size or number of processes the images that are left make another number of batches.
        """
        data = self.trainer.datamodule
        if not hasattr(data, "remaining_batches"):
            return
        if words := data.continuation():
            rank_zero_info(words)
        progress, remaining = self.epoch_loop.batch_progress, data.remaining_batches()
        completed = int(self.trainer.num_training_batches) - remaining
        progress.is_last_batch = remaining == 0
        for name in ("ready", "started", "processed", "completed"):
            setattr(progress.current, name, completed)


def _complete(progress: dict[str, Any]) -> None:
    """Takes what has been processed for complete, and forgets what has only begun."""
    for counts in (progress["total"], progress["current"]):
        processed = counts["processed"]
        counts["completed"] = processed
        if "is_last_batch" in progress:  # batches; an epoch that has begun stays begun
            counts["ready"] = counts["started"] = processed


def steps_left(trainer: Trainer) -> float:
    """Optimiser steps to the end of the run; infinite where only time limits it."""
    accumulated = trainer.accumulate_grad_batches
    batches = float(trainer.num_training_batches)
    epochs = trainer.fit_loop.epoch_progress.current
    left = math.inf
    if trainer.max_epochs not in (None, -1):
        is_within_epoch = epochs.processed < epochs.started
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready if is_within_epoch else batches
        whole = trainer.max_epochs - epochs.processed - is_within_epoch
        left = math.ceil((batches - done) / accumulated) + whole * math.ceil(batches / accumulated)
    if trainer.max_steps != -1:
        left = min(left, trainer.max_steps - trainer.global_step)
    return max(left, 0)


def install(trainer: Trainer, boundaries: Boundaries) -> None:
    """Puts the loops of this module into a trainer."""
    before = trainer.fit_loop
    loop = RunFitLoop(trainer, before.min_epochs, before.max_epochs)
    loop.epoch_loop = RunEpochLoop(trainer, boundaries, before.min_steps, before.max_steps)
    trainer.fit_loop = loop
