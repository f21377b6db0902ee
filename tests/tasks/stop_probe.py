"""Tells a run to stop, from inside, named on the command line of tests."""

import os
import signal
import time
from typing import Any

from lightning.pytorch import Callback, Trainer


class StopAfter(Callback):
    """Sends SIGTERM to its own process in a step.

    Args:
        step: Optimiser steps that are taken before the run stops.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)  # the signal travels through a pipe to a thread
