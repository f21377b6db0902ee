"""Every option of the trainer that `--help` offers is tried: it is right, or refused in one line."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from tests.tasks.running import content_of

Command = Callable[..., Path]
MONITOR = {"detect": "val/mAP", "segment": "val/mIoU"}


@dataclass(frozen=True)
class Try:
    """One use of an option.

    Attributes:
        options: What is given behind `--trainer.`.
        steps: Optimiser steps of the run, which has 3 batches an epoch and 1 epoch.
        refused: What the one line says where it is refused.
        scored: Whether the run has a score.
        saved: Whether the run has checkpoints.
        slow: Whether it is tried among slow tests only, as another test has it, too.
    """

    options: str
    steps: int = 3
    refused: str = ""
    scored: bool = True
    saved: bool = True
    slow: bool = False

    @property
    def names(self) -> set[str]:
        """The options that it tries."""
        return {option.split("=")[0].split(".")[0].rstrip("+") for option in self.options.split()}


TRIES = (
    Try(
        "accelerator=cpu devices=1 num_nodes=1 strategy=auto max_time=00:01:00:00 limit_test_batches=1 "
        "limit_predict_batches=1 log_every_n_steps=2 benchmark=true inference_mode=false use_distributed_sampler=false "
        "enable_autolog_hparams=false gradient_clip_val=0.1 callbacks+=LearningRateMonitor"
    ),
    Try("accelerator=gpu", refused="gpu|GPU|CUDA") if not torch.cuda.is_available() else Try("accelerator=gpu"),
    Try("strategy=fsdp accelerator=cpu", refused="(?i)fsdp"),
    Try("num_nodes=2", refused="srun|MASTER_ADDR"),
    Try("precision=64-true", slow=True),
    Try("precision=bf16-true", refused="too small to change them; use bf16-mixed"),
    Try("precision=transformer-engine", refused="linear layers"),
    Try("logger=false num_sanity_val_steps=-1"),
    Try(
        "logger=CSVLogger logger.save_dir=elsewhere enable_progress_bar=false enable_model_summary=true "
        "callbacks=ModelCheckpoint callbacks.every_n_train_steps=1 callbacks.dirpath=elsewhere"
    ),
    Try("fast_dev_run=1", saved=False, scored=False),
    Try("max_epochs=2 min_epochs=1 max_steps=4 min_steps=1 reload_dataloaders_every_n_epochs=1", steps=4),
    Try("limit_train_batches=2", steps=2, slow=True),  # run/test_length.py
    Try("limit_train_batches=0.67", steps=2, slow=True),
    Try("precision=bf16-mixed limit_val_batches=1 callbacks+=EarlyStopping callbacks.monitor=train/loss"),
    Try("limit_val_batches=0", scored=False),
    Try("overfit_batches=1.0", slow=True),
    Try("val_check_interval=2", slow=True),
    Try("val_check_interval=0.5", slow=True),  # run/test_length.py
    Try("val_check_interval=2 check_val_every_n_epoch=null", slow=True),  # run/test_length.py
    Try("val_check_interval=00:00:00:01 check_val_every_n_epoch=1"),
    # Of `overfit_batches` in every run: tests/datamodules/test_training_epochs.py.
    Try("overfit_batches=2 check_val_every_n_epoch=5 num_sanity_val_steps=0", steps=2, slow=True),
    Try("log_every_n_steps=0", refused="log_every_n_steps"),
    Try("enable_checkpointing=false", saved=False),
    Try("accumulate_grad_batches=2", steps=2, slow=True),  # run/test_length.py, test_training_options.py
    Try(
        "gradient_clip_val=0.1 gradient_clip_algorithm=value enable_checkpointing=true profiler=simple logger=true "
        "deterministic=true sync_batchnorm=true detect_anomaly=true limit_train_batches=1",
        steps=1,  # anomaly mode takes its time for every operation
    ),
    Try("barebones=true", refused="--trainer.profiler"),
    Try("plugins=AsyncCheckpointIO", refused="CheckpointIO"),
    Try("default_root_dir=elsewhere", refused="--runs"),
    Try("model_registry=somewhere", refused="model_registry"),
)


def test_every_option_is_tried() -> None:
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(Trainer, "trainer")
    offered = {action.dest.split(".")[1] for action in parser._actions if action.dest.startswith("trainer.")}
    assert offered - set().union(*(each.names for each in TRIES)) == set()


def cases() -> list[object]:
    """Most cases with one task in turn; with -m slow, all with both."""
    found = []
    for number, each in enumerate(TRIES):
        for task in ("detect", "segment"):
            usual = (task == "detect") == (number % 2 == 0) and not each.slow
            found.append(pytest.param(task, each, id=f"{task} {each.options}", marks=() if usual else pytest.mark.slow))
    return found


@pytest.mark.usefixtures("own_determinism")
@pytest.mark.parametrize(("task", "each"), cases())
def test_option_is_right_or_refused(
    task: str,
    each: Try,
    command: Command,
    fails: Callable[..., str],
    tmp_path: Path,
) -> None:
    options = [
        f"--trainer.{option.replace('elsewhere', str(tmp_path / 'elsewhere'))}" for option in each.options.split()
    ]
    if each.refused:
        assert re.search(each.refused, fails(task, "fit", *options))
        assert not (tmp_path / "runs" / task / "test").exists()
        return
    folder = command(task, "fit", *options)
    checkpoints = {path.name for path in (folder / "checkpoints").glob("*.ckpt")}
    if not each.saved:
        assert checkpoints == set()
        return
    expected = {"last.ckpt", "last.before.ckpt", "best.ckpt"} if each.scored else {"last.ckpt"}
    assert checkpoints - {"last.before.ckpt"} == expected - {"last.before.ckpt"}
    last = content_of(folder / "checkpoints" / "last.ckpt")
    assert last["global_step"] == each.steps
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    if "logger=false" not in each.options:
        with (folder / "metrics.csv").open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        scored = [int(row["step"]) + 1 for row in rows if row.get(MONITOR[task])]
        assert (scored[-1] == each.steps) if each.scored else scored == []
