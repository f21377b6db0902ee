"""Progress: a bar on a terminal, one line every N steps elsewhere."""

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar

from tasks.run.loop import steps_left


class Throughput:
    """Images per second over the last steps of training."""

    def __init__(self) -> None:
        self.images, self.since = 0, time.monotonic()

    def add(self, images: int) -> None:
        """Counts the images of a step."""
        self.images += images

    def rate(self) -> float:
        """Images per second since the last reset."""
        return self.images / max(time.monotonic() - self.since, 1e-9)

    def reset(self) -> None:
        """Starts a new span."""
        self.images, self.since = 0, time.monotonic()


class TerminalProgress(TQDMProgressBar):
    """Lightning's bar with the images per second of all processes; loss, metric and the time left are on it anyway."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=5)
        self.throughput = Throughput()

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Starts to count."""
        super().on_train_epoch_start(trainer, *args)
        self.throughput.reset()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        """Counts the images."""
        self.throughput.add(len(batch["image"]) * trainer.world_size)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, *args)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Adds the throughput and takes away the version number, which runs do not have."""
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        if trainer.training:
            items["img/s"] = round(self.throughput.rate(), 1)
        return items


class LineProgress(ProgressBar):
    """One line every N steps: step, loss, learning rate, images per second and the time left.

    Args:
        every_n_steps: Steps between lines.
    """

    def __init__(self, every_n_steps: int) -> None:
        super().__init__()
        self.every_n_steps = every_n_steps
        self.enabled = True
        self.throughput = Throughput()
        self._started, self._first_step = 0.0, 0

    def disable(self) -> None:
        """Prints nothing, as on all processes but the first."""
        self.enabled = False

    def enable(self) -> None:
        """Prints."""
        self.enabled = True

    def print(self, *args: Any, **_: Any) -> None:
        """Prints a line."""
        if self.enabled:
            print(*args, flush=True)  # noqa: T201

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock that the time left is derived from."""
        self._started, self._first_step = time.monotonic(), trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts to count images."""
        self.throughput.reset()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prints a line every N steps."""
        self.throughput.add(len(batch["image"]) * trainer.world_size)
        step = trainer.global_step
        remaining = steps_left(trainer)
        if step == 0 or step % self.every_n_steps:
            return
        per_step = (time.monotonic() - self._started) / max(step - self._first_step, 1)
        left = f"{format_seconds(per_step * remaining)} left" if remaining != float("inf") else "no limit"
        loss = float(trainer.callback_metrics.get("train/loss", float("nan")))
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.print(
            f"epoch {trainer.current_epoch} step {step}/{step + remaining:.0f} loss {loss:.4f} lr {rate:.2e} "
            f"{self.throughput.rate():.1f} img/s {left}"
        )
        self.throughput.reset()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the numbers of the evaluation."""
        if not trainer.sanity_checking:
            self._print_scores(trainer, "val/")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the numbers of the test."""
        self._print_scores(trainer, "test/")

    def _print_scores(self, trainer: Trainer, prefix: str) -> None:
        scores = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
        shown = {name: value for name, value in reversed(scores.items()) if value == value}  # not a number: undefined
        listed = " ".join(f"{name.removeprefix(prefix)} {value:.4g}" for name, value in shown.items())
        self.print(f"epoch {trainer.current_epoch} {prefix.removesuffix('/')}: {listed}")
        self.throughput.reset()


def choose_progress(every_n_steps: int) -> ProgressBar:
    """A bar where a person watches, lines where the output goes into a file or a pipe."""
    return TerminalProgress() if sys.stdout.isatty() else LineProgress(every_n_steps)


def format_seconds(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
