"""How a run ends: its record, its last words, and the exit code of what is not a failure."""

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info

from tasks.run import exit_codes
from tasks.run.checkpoint_files import BEST, CHECKPOINTS
from tasks.run.length import has_time_limit
from tasks.run.life import RunLife
from tasks.run.loop import steps_left
from tasks.run.record import Status, read_record
from tasks.run.resume import SAVED_CONFIG
from tasks.run.start import RunEnded, RunStart, close_record
from tasks.run.stop import StopRun

OUT_OF_TIME = "time limit (--trainer.max_time)"


class Ending:
    """Ends a training run.

    Args:
        task: `detect` or `segment`.
        start: How it has begun; none where nothing has been claimed.
        life: What it has saved; none where it has not come so far.
    """

    def __init__(self, task: str, start: RunStart | None, life: RunLife | None) -> None:
        self.task, self.start, self.life = task, start, life

    def trained(self, trainer: Trainer) -> None:
        """After `fit` has returned: the run is finished, or its time is over.

        Raises:
            RunEnded: `--trainer.max_time` has ended it before its length.
        """
        if self.start is None or self.life is None:
            return
        reason = _early_stop(trainer)
        out_of_time = reason == "" and has_time_limit(trainer) and _has_length(trainer) and steps_left(trainer) > 0
        self._close("stopped" if out_of_time else "finished", OUT_OF_TIME if out_of_time else reason)
        for line in self._last_words(trainer, reason, out_of_time):
            rank_zero_info(line)
        self.start.close()
        if out_of_time:
            raise RunEnded(self.start.folder, exit_codes.TIME_LIMIT)

    def failed(self, error: BaseException) -> None:
        """Whatever has ended the command before its end; it is raised again by the caller."""
        if self.start is None:
            return
        if isinstance(error, SystemExit):
            self.start.close()
            return
        if self.life is None or not self.life.has_begun:
            self.start.abandon(f"{error if isinstance(error, StopRun) else _brief(error)}, before the first step")
            if isinstance(error, StopRun):
                rank_zero_info(f"{error} before the first step; nothing was to be saved")
        elif isinstance(error, StopRun):
            self._close("stopped", str(error))
            rank_zero_info(f"{error} at step {self._step()}; {self.life.stop.last_words}")
            rank_zero_info(f"continue: {self._command('fit', '--resume auto')}")
        else:
            self._close("failed", _brief(error))
        self.start.close()

    def _close(self, status: Status, reason: str) -> None:
        assert self.start is not None and self.life is not None
        if self.start.lock is None or read_record(self.start.folder) is None:
            return
        best = self.life.best_score
        headline = self.life.headline
        score = {headline.logged(): best} if best == best else {}  # not a number: undefined
        saved, last = self.life.saved_at, self.life.last_step
        close_record(self.start.folder, status, saved, score, reason, headline.direction, last)

    def _last_words(self, trainer: Trainer, reason: str, out_of_time: bool) -> list[str]:
        assert self.start is not None and self.life is not None
        lines = []
        if reason:
            lines.append(reason)
        if out_of_time:
            lines.append(
                f"--trainer.max_time is over at step {trainer.global_step}, {steps_left(trainer):.0f} are left"
            )
            lines.append(f"continue: {self._command('fit', '--resume auto --trainer.max_time MORE')}")
        if self.life.folder is None:
            return lines
        if self.life.best_step >= 0:
            best = self.start.folder / CHECKPOINTS / BEST
            name = self.life.headline.logged()
            lines.append(f"best {name} {self.life.best_score:.4g} at step {self.life.best_step}: {best}")
        which = "best" if self.life.best_step >= 0 else "last"
        if self.start.request.command:
            lines.append(f"evaluate: {self._command('validate', f'--ckpt_path {which}')}")
            images = f"--ckpt_path {which} --data.images 'FOLDER/*.jpg'"
            lines.append(f"predict:  {self._command('predict', images)}")
        return lines

    def _command(self, subcommand: str, options: str) -> str:
        assert self.start is not None
        if not self.start.request.command:
            return "call tasks.train again, with resume='auto'"
        return f"python -m tasks.{self.task} {subcommand} --config {self.start.folder / SAVED_CONFIG} {options}"

    def _step(self) -> int:
        return self.life.saved_at[0] if self.life is not None and self.life.saved_at else 0


def _brief(error: BaseException) -> str:
    """The last line of an error."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _has_length(trainer: Trainer) -> bool:
    return trainer.max_steps != -1 or trainer.max_epochs not in (None, -1)


def _early_stop(trainer: Trainer) -> str:
    """Why an early stopping has ended the run; empty where none has."""
    for callback in trainer.callbacks:
        if isinstance(callback, EarlyStopping) and callback.stopped_epoch > 0:
            return (
                f"early stopping in epoch {callback.stopped_epoch}: {callback.monitor} did not improve on "
                f"{float(callback.best_score):.4g} in {callback.wait_count} checks"
            )
    return ""
