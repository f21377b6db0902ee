"""Where the time of training goes: waiting for data, or computing."""

import statistics
import time
import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from tasks.run.facts import peak_memory

MUCH_WAITING = 0.2
"""Share of the time spent waiting for data above which a warning says what to do."""


class Performance(Callback):
    """Logs `perf/images_per_second`, `perf/data_wait`, `perf/step_p50`, `perf/step_p95` and `perf/peak_memory_MB`.

    Rates are over the steps since they were last logged and over all processes; the share of waiting is that of the
    first process. A step lasts from the arrival of its batch to its end, in seconds. On a GPU the clock runs ahead of
    the device within a step, but not over many of them. Memory is the peak on the GPU, or of this process on a CPU.

    Args:
        every_n_steps: Steps between two logs.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = max(every_n_steps, 1)
        self._steps: list[float] = []
        self._waits: list[float] = []
        self._images = 0
        self._last_end: float | None = None
        self._begin = 0.0
        self._has_warned = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the time between epochs: the first batch of an epoch waits for the workers to start."""
        self._last_end = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Ends the wait for the batch."""
        self._begin = time.perf_counter()
        if self._last_end is not None:
            self._waits.append(self._begin - self._last_end)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends the step, and logs every N steps."""
        self._last_end = time.perf_counter()
        self._steps.append(self._last_end - self._begin)
        self._images += len(batch["image"]) * trainer.world_size
        if len(self._steps) >= self.every_n_steps:
            numbers = self.numbers(trainer)
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step=trainer.global_step - 1)  # as Lightning counts the step's own numbers
            self._warn_of_waiting(trainer, numbers["perf/data_wait"])
            self._steps, self._waits, self._images = [], [], 0

    def numbers(self, trainer: Trainer) -> dict[str, float]:
        """The numbers of the steps since the last call."""
        working, waiting = sum(self._steps), sum(self._waits)
        ordered = sorted(self._steps)
        return {
            "perf/images_per_second": self._images / (working + waiting),
            "perf/data_wait": waiting / (working + waiting),
            "perf/step_p50": statistics.median(ordered),
            "perf/step_p95": ordered[min(round(0.95 * len(ordered)), len(ordered) - 1)],
            "perf/peak_memory_MB": peak_memory(trainer) / 2**20,
        }

    def _warn_of_waiting(self, trainer: Trainer, share: float) -> None:
        if share <= MUCH_WAITING or self._has_warned:
            return
        self._has_warned = True
        workers = getattr(trainer.datamodule, "num_workers", 0)
        warnings.warn(
            f"training waits for data {share:.0%} of the time; raise --data.num_workers (now {workers} per process), "
            "put the images on a local disk, or choose a cheaper pipeline",
            stacklevel=2,
        )
