"""A callback for the tests of failing processes, named on the command line."""

import os
import signal
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from tasks.errors import MachineError


class FailureProbe(Callback):
    """Makes one process fail at the end of a step.

    Args:
        rank: The process.
        step: The step.
        how: Name of a method.
    """

    def __init__(self, rank: int, step: int, how: str) -> None:
        self.rank, self.step, self.how = rank, step, how

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            getattr(self, self.how)()

    def bug(self) -> None:
        raise KeyError("boxes")

    def error(self) -> None:
        raise MachineError("the disk is full; make room")

    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def never_ends(self) -> None:
        """Fails, and hangs in its clean-up."""
        self.on_exception = lambda *_: time.sleep(600)
        raise MachineError("the disk is full; make room")

    def hangs(self) -> None:
        time.sleep(600)
