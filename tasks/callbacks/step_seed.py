"""Random numbers inside the model that do not depend on what was drawn before, so that a resumed run draws the same."""

from typing import Any
from zlib import crc32

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tasks.detectors.two_stage.detector import TwoStageDetector


class StepSeed(Callback):
    """Seeds PyTorch before every training step from (seed, step, process): dropout resumes exactly.

    Detectors that choose anchors and proposals get the run's seed: they draw from it and the key of each sample.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hands the run's seed to what draws by it."""
        for module in pl_module.modules():
            if isinstance(module, TwoStageDetector):
                module.seed = self.seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seeds the generators of the CPU and of all GPUs."""
        step = trainer.fit_loop.epoch_loop.total_batch_idx
        torch.manual_seed(crc32(f"{self.seed}/{step}/{trainer.global_rank}".encode()))
