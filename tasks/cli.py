"""The command line of a task: LightningCLI with a run folder, two loggers and the callbacks that every run has."""

import inspect
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from jsonargparse import lazy_instance
from lightning.pytorch.callbacks import EMAWeightAveraging, LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

import attention  # noqa: F401 - imported so that short class names resolve
import backbones  # noqa: F401
import datamodules
import tasks.schedules  # noqa: F401
from tasks.base import VisionTask, read_checkpoint
from tasks.callbacks import (
    BestCheckpoint,
    LastCheckpoint,
    Performance,
    Pictures,
    PredictionWriter,
    RunConfig,
    RunSummary,
    StepSeed,
    choose_progress,
)
from tasks.class_options import own_defaults
from tasks.errors import TaskError
from tasks.run_folder import CHECKPOINTS, choose_run_folder, forget, hand_down
from tasks.run_logger import CSVMetrics, WandbOptions, finish_wandb, make_wandb_logger

QUIET = (
    r"`isinstance\(treespec, LeafSpec\)`",  # between Lightning and PyTorch
    r"Checkpoint directory .* exists and is not empty",  # it belongs to the run that is continued
    r"Be aware that when using `ckpt_path`, callbacks",  # predictions need none of training's callbacks
    r"Found \d+ module\(s\) in eval mode",  # frozen stages and norms, as the configuration says
    r"Fail to import ``MultiScaleDeformableAttention``",  # mmcv without compiled operators, as installed on purpose
    r"Default ``avg_non_ignore`` is False",  # MMSegmentation's published baselines were trained with its default
)
"""Warnings of libraries about which a user can and need do nothing."""


class VisionCLI(LightningCLI):
    """LightningCLI for one task.

    Args:
        name: `detect` or `segment`: the folder below `runs`.
        task: The LightningModule.
        data: Data module that is used unless the configuration names another.
        pictures: Callback that draws validation images.
        writer: Callback that writes predictions.
        args: Arguments; default: those of the process.
    """

    def __init__(
        self,
        name: str,
        task: type[VisionTask],
        data: type[datamodules.VisionDataModule],
        pictures: type[Pictures],
        writer: type[PredictionWriter],
        args: list[str] | None,
    ) -> None:
        self.name, self.task, self.data, self.pictures, self.writer = name, task, data, pictures, writer
        self.run_folder = Path()
        super().__init__(
            task,
            datamodules.VisionDataModule,
            subclass_mode_data=True,
            save_config_callback=RunConfig,
            seed_everything_default=42,
            auto_configure_optimizers=False,
            trainer_defaults={"max_epochs": 12, "enable_model_summary": False},
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the options that every run has, and hands the data set's facts to the model."""
        parser.add_argument("--name", type=str | None, default=None, help="Name of the run. Default: the config's.")
        parser.add_argument("--runs", type=Path, default=Path("runs"), help="Folder of all runs.")
        parser.add_class_arguments(WandbOptions, "wandb")
        parser.add_argument(
            "--save_every_n_steps",
            type=int | None,
            default=None,
            help="Optimiser steps between additional writes of last.ckpt within an epoch.",
        )
        parser.add_argument(
            "--ema_decay",
            type=float | None,
            default=None,
            help="Average the weights with this decay per step (0.999, say); validation and best.ckpt use the average.",
        )
        parser.add_subclass_arguments(Pictures, "pictures", default=lazy_instance(self.pictures))
        parser.add_subclass_arguments(PredictionWriter, "writer", default=lazy_instance(self.writer))
        for fact in ("class_names", "category_ids", "image_size"):
            if fact != "category_ids" or self.name == "detect":
                parser.link_arguments(f"data.{fact}", f"model.{fact}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=_integer_seed)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.set_defaults({"weights_only": True})  # a checkpoint is data, never code
        return parser

    def _parse_ckpt_path(self) -> None:
        checkpoint = self.config[self.config.subcommand].get("ckpt_path")
        if checkpoint and Path(checkpoint).is_file():
            saved = read_checkpoint(checkpoint).get("hyper_parameters", {})
            foreign = [name for name in saved if name[0] != "_" and name not in inspect.signature(self.task).parameters]
            if foreign:
                raise TaskError(
                    f"{checkpoint} is the checkpoint of another task: python -m tasks.{self.name} has no model option "
                    f"{foreign[0]!r}"
                )
        super()._parse_ckpt_path()

    def before_instantiate_classes(self) -> None:
        """Chooses the run folder, and takes the class names from the checkpoint when images are all that is given."""
        config = self.config[self.subcommand]
        checkpoint = Path(config.ckpt_path) if config.get("ckpt_path") else None
        if checkpoint is not None and not checkpoint.is_file():
            raise TaskError(
                f"no checkpoint at {checkpoint}; --ckpt_path expects a file such as RUN/{CHECKPOINTS}/last.ckpt"
            )
        first_config = Path(str(config.config[0])) if config.get("config") else None
        self.run_folder = choose_run_folder(
            self.name, config.runs, config.name, first_config, checkpoint, fits=self.subcommand == "fit"
        )
        hand_down(self.run_folder)
        if config.trainer.sync_batchnorm and not trains_on_gpu(config.trainer.accelerator):
            rank_zero_info("sync_batchnorm needs GPUs; on the CPU every process keeps its own batch norm statistics")
            config.trainer.sync_batchnorm = False
        if checkpoint is not None and config.data.init_args.get("images"):
            hyperparameters = read_checkpoint(checkpoint)["hyper_parameters"]
            for fact in ("class_names", "category_ids"):
                if fact in hyperparameters:
                    config.data.init_args[fact] = hyperparameters[fact]

    def instantiate_classes(self) -> None:
        """Builds data, model and trainer; what a constructor refuses is the user's to correct."""
        try:
            super().instantiate_classes()
        except (datamodules.DataError, TaskError):
            raise
        except (ValueError, RuntimeError) as error:  # RuntimeError: weights that cannot be downloaded
            raise TaskError(str(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Adds run folder, loggers and callbacks to what the configuration says."""
        config = self.config_init[self.subcommand]
        self.save_config_kwargs = {"subcommand": self.subcommand}
        loggers = self._loggers(config)
        callbacks = [*(config.trainer.callbacks or []), *self._callbacks(config, has_logger=bool(loggers))]
        return super().instantiate_trainer(
            default_root_dir=self.run_folder, logger=loggers, callbacks=callbacks, **kwargs
        )

    def _loggers(self, config: Any) -> list[Logger]:
        given = config.trainer.logger
        if given is False or config.trainer.fast_dev_run or self.subcommand == "predict":
            return []
        table = CSVMetrics(
            self.run_folder, "metrics.csv" if self.subcommand == "fit" else f"metrics.{self.subcommand}.csv"
        )
        if isinstance(given, Logger | list):
            return [table, *(given if isinstance(given, list) else [given])]
        tracker = make_wandb_logger(config.wandb, self.name, self.run_folder) if self.subcommand == "fit" else None
        return [table] if tracker is None else [table, tracker]

    def _callbacks(self, config: Any, has_logger: bool) -> list[pl.Callback]:
        seed = _integer_seed(config.seed_everything)
        callbacks: list[pl.Callback] = []
        if config.trainer.enable_progress_bar is not False:
            callbacks.append(choose_progress(config.trainer.log_every_n_steps or 50))
        if self.subcommand == "predict":
            return [*callbacks, config.writer]
        if config.trainer.fast_dev_run:
            return callbacks
        callbacks += [RunSummary(self.name, str(self.subcommand), seed), config.pictures]
        if self.subcommand != "fit":
            return callbacks
        folder = self.run_folder / CHECKPOINTS
        callbacks += [StepSeed(seed), BestCheckpoint(folder, self.task.monitor), LastCheckpoint(folder)]
        if config.save_every_n_steps is not None:
            callbacks.append(LastCheckpoint(folder, config.save_every_n_steps))
        if config.ema_decay is not None:
            callbacks.append(EMAWeightAveraging(decay=config.ema_decay))
        if has_logger:
            callbacks += [LearningRateMonitor(), Performance(config.trainer.log_every_n_steps or 50)]
        return callbacks

    def before_fit(self) -> None:
        """Lets `metrics.csv` go on where the checkpoint is."""
        checkpoint = self.config[self.subcommand].get("ckpt_path")
        if checkpoint:
            step = int(read_checkpoint(checkpoint)["global_step"])
            for logger in self.trainer.loggers:
                if isinstance(logger, CSVMetrics):
                    logger.continue_from(step)


def trains_on_gpu(accelerator: Any) -> bool:
    """Whether Lightning will choose a GPU."""
    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())


def _integer_seed(seed: bool | int) -> int:
    """The seed of the data: the given one, or 42 where a random or no seed is asked for."""
    return 42 if isinstance(seed, bool) else seed


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    """False for Lightning's hints at further packages."""
    return "Tip: For seamless cloud" not in record.getMessage()


@contextmanager
def _helpful_output() -> Iterator[None]:
    """Shows what `backbones` says about the weights it loads, and leaves `QUIET` out."""
    handler, reports = logging.StreamHandler(), logging.getLogger("backbones")
    handler.addFilter(lambda record: getattr(rank_zero_only, "rank", 0) == 0)
    level = reports.level
    reports.addHandler(handler)
    reports.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            for message in QUIET:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        reports.removeHandler(handler)
        reports.setLevel(level)


def run(cli: Any) -> None:
    """Runs a command line; a user's mistake ends in one line on stderr and exit code 2.

    Args:
        cli: Function without arguments that constructs the command line.
    """
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    inherited = os.environ.get("LOCAL_RANK")
    try:
        with _helpful_output(), own_defaults():
            cli()
    except (datamodules.DataError, TaskError) as error:
        # A loader process hands its traceback on in the message; the last line is the error itself.
        last_line = str(error).strip().splitlines()[-1]
        sys.exit(f"error: {last_line.split('DataError: ')[-1]}")
    finally:
        finish_wandb()
        if inherited is None:
            forget()
