"""The two checkpoints of a run: the best, and the last."""

from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, the weights with the best monitored number.

    Args:
        folder: The run's checkpoint folder.
        monitor: Logged name of the number, larger is better.
    """

    def __init__(self, folder: Path, monitor: str) -> None:
        super().__init__(folder, filename="best", monitor=monitor, mode="max", enable_version_counter=False)


class LastCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt`, from which a run is continued, whatever the monitored number does.

    (Lightning's `save_last` copies only when the best checkpoint changes as well.)

    Args:
        folder: The run's checkpoint folder.
        every_n_steps: Optimiser steps between checkpoints. Default: at the end of every epoch.
    """

    def __init__(self, folder: Path, every_n_steps: int | None = None) -> None:
        super().__init__(
            folder, filename="last", monitor=None, every_n_train_steps=every_n_steps, enable_version_counter=False
        )
