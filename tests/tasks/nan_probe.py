"""Callbacks that break the numbers of training, named on the command line of tests."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class BrokenGradient(Callback):
    """Makes a gradient not-a-number under a finite loss.

    Args:
        step: Optimiser steps before the one that is broken.
        rank: Process in which it is broken.
        steps: Number of steps that are broken.
    """

    def __init__(self, step: int, rank: int = 0, steps: int = 1) -> None:
        self.step, self.rank, self.steps = step, rank, steps
        self.handle: Any = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        parameter = next(p for p in pl_module.parameters() if p.requires_grad)
        if self.step <= trainer.global_step < self.step + self.steps and trainer.global_rank == self.rank:
            self.handle = parameter.register_hook(lambda grad: grad * float("nan"))

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.handle is not None:
            self.handle.remove()
            self.handle = None
