"""The resolved configuration of every command, next to the checkpoints and in W&B."""

from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, Namespace, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger

from tasks.run_folder import write_text


class RunConfig(SaveConfigCallback):
    """Writes `config.<subcommand>.yaml` into the run folder, so that `test` does not overwrite the config of `fit`.

    Args:
        parser: Parser of the subcommand.
        config: The parsed configuration.
        subcommand: `fit`, `validate`, `test` or `predict`.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, subcommand: str) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.subcommand = subcommand

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the file, and sends the same content to W&B when training."""
        resolved = self.parser.dump(self.config, skip_none=False, skip_link_targets=True)
        write_text(f"{trainer.default_root_dir}/config.{self.subcommand}.yaml", resolved)
        content: dict[str, Any] = yaml.safe_load(resolved)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and self.subcommand == "fit":
                logger.experiment.config.update(content, allow_val_change=True)
