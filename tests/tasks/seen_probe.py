"""Records which images a run has trained on, named on the command line of tests."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class SeenImages(Callback):
    """Appends a line `epoch step rank index index ...` for every training batch, when its step has been taken.

    Args:
        file: Where to; every process appends a file of its own, with its rank behind the name.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        keys = batch["keys"]
        with Path(f"{self.file}.{trainer.global_rank}").open("a") as lines:
            indices = " ".join(str(key.index) for key in keys)
            lines.write(f"{keys[0].epoch} {trainer.global_step} {trainer.global_rank} {indices}\n")
