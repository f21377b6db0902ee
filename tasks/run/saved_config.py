"""The resolved configuration of every command, next to the checkpoints and in W&B."""

from itertools import count
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from tasks.run.files import write_text
from tasks.run.resume import SAVED_CONFIG
from tasks.run.wandb_run import WandbRun


class SavedConfig(Callback):
    """Writes `config.<subcommand>.yaml` into the run folder.

    That of `fit` is what started the run, without any checkpoint: a run that is continued keeps it, and the options of
    the continuation are written beside it as `config.fit.2.yaml` and so on.

    Args:
        text: The configuration as yaml.
        subcommand: `fit`, `validate`, `test` or `predict`.
        continues: A run of before goes on.
    """

    def __init__(self, text: str, subcommand: str, continues: bool) -> None:
        self.text, self.subcommand, self.continues = text, subcommand, continues

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the file, and sends the same content to W&B when training."""
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        name = f"config.{self.subcommand}.yaml" if self.subcommand != "fit" else SAVED_CONFIG
        if self.subcommand == "fit" and self.continues and (folder / name).exists():
            name = next(free for n in count(2) if not (folder / (free := f"config.fit.{n}.yaml")).exists())
        write_text(folder / name, self.text)
        for logger in trainer.loggers:
            if self.subcommand == "fit" and isinstance(logger, WandbRun):
                content: dict[str, Any] = yaml.safe_load(self.text)
                logger.update_config(content)
