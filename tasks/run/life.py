"""The life of a training run: what is saved when, what happens when it is told to stop, and how it ends.

Read this page to know what happens when the job is killed at any moment:

- *killed at once* (kill -9, a lost node): the last checkpoint stands whole (`files.py`); the same command with
  `--resume auto` goes on behind it, with the images that its epoch has not seen, and makes a validation good that was
  owed (`loop.py`);
- *told to stop* (SIGTERM, SIGUSR1, Ctrl-C): all processes agree in the next step, the state is saved, and the command
  ends with 128 + signal (`stop.py`);
- *numbers that are not finite*: the step is not taken, nothing is saved of it (`guard.py`);
- *another process has taken the folder over*: nothing more is written (`lock.py`).
"""

import math
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from tasks.batch_norm import refuse_one_value
from tasks.headline import Headline
from tasks.run.agreement import Agreement
from tasks.run.checkpoint_files import BEST, LAST
from tasks.run.guard import NumbersGuard
from tasks.run.length import align_schedule, images_per_step
from tasks.run.loop import steps_left
from tasks.run.stop import StopRequests, StopRun


class RunLife(Checkpoint):
    """Saves `last.ckpt` and `best.ckpt`, and carries out what the processes agree on.

    Args:
        folder: The run's checkpoint folder; none saves nothing.
        headline: The number by which the best checkpoint is chosen.
        stop: The stop signals of this process.
        guard: Watches the numbers.
        every_n_steps: Optimiser steps between saves within an epoch.
        every_n_minutes: Minutes between saves within an epoch.
    """

    def __init__(
        self,
        folder: Path | None,
        headline: Headline,
        stop: StopRequests,
        guard: NumbersGuard,
        every_n_steps: int | None = None,
        every_n_minutes: float | None = None,
    ) -> None:
        self.folder, self.headline, self.stop, self.guard = folder, headline, stop, guard
        self.every_n_steps, self.every_n_minutes = every_n_steps, every_n_minutes
        self.best_score, self.best_step = math.nan, -1
        self.saved_at: tuple[int, int] | None = None
        self.last_step: int | None = None
        self.has_begun = False
        self._images_per_step: int | None = None
        self._saved_time = time.monotonic()
        self._agreed_stop, self._save_is_due = 0, False

    def state_dict(self) -> dict[str, Any]:
        """The best score so far, and the images of a step."""
        return {
            "best_score": self.best_score,
            "best_step": self.best_step,
            "images_per_step": self._images_per_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the best score of the checkpoint."""
        self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]
        self._images_per_step = state_dict["images_per_step"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the channel over which the processes agree, and refuses a batch norm over one value."""
        self.agreement = Agreement()
        refuse_one_value(pl_module.model, pl_module.image_size, getattr(trainer.datamodule, "batch_size", 2))

    # What is agreed on, in every step and in every batch of an evaluation.

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remembers the batch."""
        loop = trainer.fit_loop.epoch_loop
        begins = batch_idx % trainer.accumulate_grad_batches == 0 or batch_idx == loop.first_batch
        self.guard.begin_batch(trainer.global_step, loop.total_batch_idx, batch, begins)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the loss parts."""
        self.guard.see_losses(pl_module.loss_parts)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """All processes agree, and the step is taken only if its numbers are finite."""
        due = self._is_due(trainer)
        decision = self.guard.before_step(trainer, pl_module, self.agreement, self.stop.signal, due)
        self._agreed_stop, self._save_is_due = decision.stop, decision.save

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Counts the step, before a validation that may not end."""
        self.last_step = trainer.global_step

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Leaves the validation if it is time to stop."""
        self._agreed_stop = self.agreement.on(self.stop.signal).stop
        if self._agreed_stop:
            raise StopRun(self._agreed_stop)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that the weights are validated, before anything is saved of it."""
        if not trainer.sanity_checking:
            trainer.fit_loop.epoch_loop.note_validation()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes `best.ckpt`; an undefined score counts as the worst of all."""
        score = trainer.callback_metrics.get(self.headline.logged())
        if trainer.sanity_checking or self.folder is None or score is None:
            return
        if self.headline.improves(float(score), self.best_score):
            self.best_score, self.best_step = float(score), trainer.global_step
            self.guard.require_finite(trainer, pl_module, self.agreement)
            trainer.save_checkpoint(self.folder / BEST, weights_only=False)

    # Boundaries, from `loop.py`.

    def before_training(self, trainer: Trainer) -> None:
        """Stops before the first step if it was asked to."""
        self.has_begun, self.last_step = True, trainer.global_step
        if self._images_per_step is not None:
            align_schedule(trainer, self._images_per_step)
        self._images_per_step = images_per_step(trainer)
        self._agreed_stop = self.agreement.on(self.stop.signal).stop
        self._stop_if_agreed(trainer)

    def stop_is_due(self) -> bool:
        """Whether all processes have agreed to stop."""
        return self._agreed_stop != 0

    def after_step(self, trainer: Trainer) -> None:
        """Stops, or saves where it is due."""
        self._stop_if_agreed(trainer)
        if self._save_is_due:
            self.save_last(trainer)

    def stop_in_validation(self, trainer: Trainer) -> None:
        """Saves the state before the validation."""
        self.save_last(trainer)

    def end_of_epoch(self, trainer: Trainer, complete: bool) -> None:
        """Saves at the end of every epoch, and where the run ends."""
        self.save_last(trainer)
        if complete and not trainer.should_stop and steps_left(trainer) > 0:
            self._agreed_stop = self.agreement.on(self.stop.signal).stop
            self._stop_if_agreed(trainer)

    def save_last(self, trainer: Trainer) -> None:
        """Writes `last.ckpt`; a collective call.

        Raises:
            NumbersError: Gradients or weights are not finite.
            MachineError: It cannot be written.
        """
        self._saved_time, self._save_is_due = time.monotonic(), False
        if self.folder is None:
            return
        self.guard.require_finite(trainer, trainer.lightning_module, self.agreement)
        trainer.save_checkpoint(self.folder / LAST, weights_only=False)
        self.saved_at = trainer.global_step, trainer.fit_loop.epoch_progress.current.processed
        self.stop.last_words = f"{self.folder / LAST} holds step {trainer.global_step}"

    def _is_due(self, trainer: Trainer) -> bool:
        step = trainer.global_step + 1
        minutes = (time.monotonic() - self._saved_time) / 60
        by_steps = self.every_n_steps is not None and step % self.every_n_steps == 0
        by_clock = self.every_n_minutes is not None and minutes >= self.every_n_minutes
        return by_steps or by_clock

    def _stop_if_agreed(self, trainer: Trainer) -> None:
        if not self._agreed_stop:
            return
        if self.saved_at != (trainer.global_step, trainer.fit_loop.epoch_progress.current.processed):
            self.save_last(trainer)
        raise StopRun(self._agreed_stop)


class EvaluationStop(Callback):
    """Ends `validate`, `test` and `predict` at the next batch when the command is told to stop; nothing is to be saved.

    Args:
        stop: The stop signals of this process.
    """

    def __init__(self, stop: StopRequests) -> None:
        self.stop = stop
        self.agreement: Agreement | None = None

    def _look(self, *_: Any) -> None:
        self.agreement = self.agreement or Agreement()
        agreed = self.agreement.on(self.stop.signal).stop
        if agreed:
            raise StopRun(agreed)

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = _look
