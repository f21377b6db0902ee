"""A callback for the distributed tests, named on the command line."""

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class RankProbe(Callback):
    """Saves the weights of every process at the end of training."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(pl_module.model.state_dict(), folder / f"rank{trainer.global_rank}.pt")
