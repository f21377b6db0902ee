"""Options of the trainer that cannot be right here, refused in one line."""

import os
import re
from typing import Any

import torch
from lightning.pytorch.strategies import StrategyRegistry

from tasks.errors import TaskError
from tasks.ranges import check_range
from tasks.run.job import Job

REFUSED = {
    "barebones": "trains without saving, logging or validating; to see where time goes use --trainer.profiler simple",
    "default_root_dir": "does not place a run; use --runs FOLDER and --name NAME",
    "model_registry": "(trainer.model_registry) is a service of Lightning's that this package does not write to",
}
FINDERS = {
    "LearningRateFinder": "sets one rate for all parameter groups, and the schedule takes it back at its next step; "
    "look for a rate before the run: python -m tasks.find lr RECIPE",
    "BatchSizeFinder": "changes the batch after rate, schedule and order of images were made for another; "
    "look for a batch before the run: python -m tasks.find batch_size RECIPE",
}
"""Callbacks of Lightning's that train within a run, and why they cannot here."""


def refuse_trainer_options(trainer: Any, job: Job) -> None:
    """Refuses what would train wrongly or not at all.

    Args:
        trainer: The trainer's options.
        job: The job of this process.

    Raises:
        TaskError: With what to use instead.
    """
    for name, reason in REFUSED.items():
        if trainer.get(name):
            raise TaskError(f"--trainer.{name} {trainer[name]} {reason}")
    if trainer.log_every_n_steps is not None and trainer.log_every_n_steps < 1:
        raise TaskError(
            f"--trainer.log_every_n_steps is {trainer.log_every_n_steps}, expected at least 1; --trainer.logger false "
            "switches logging off"
        )
    _refuse_counts(trainer)
    strategy, known = trainer.strategy, ("auto", *StrategyRegistry.available_strategies())
    if isinstance(strategy, str) and strategy not in known:
        raise TaskError(f"--trainer.strategy is {strategy!r}, expected auto, ddp, fsdp or another of Lightning's names")
    if isinstance(trainer.max_time, str) and not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", trainer.max_time):
        raise TaskError(f"--trainer.max_time is {trainer.max_time!r}, expected DD:HH:MM:SS; one hour is 00:01:00:00")
    for name in ("max_epochs", "max_steps"):
        if isinstance(value := trainer.get(name), int) and value < -1:
            raise TaskError(f"--trainer.{name} is {value}, expected at least 0, or -1 for no limit")
    for callback in trainer.get("callbacks") or []:
        name = str(callback.get("class_path")).rpartition(".")[2]
        if name in FINDERS:
            raise TaskError(f"--trainer.callbacks {name} {FINDERS[name]}")
    _refuse_devices(trainer)
    if trainer.num_nodes > 1 and job.scheduler is None and "MASTER_ADDR" not in os.environ:
        raise TaskError(
            f"--trainer.num_nodes is {trainer.num_nodes}, but nothing has started processes on the other nodes; start "
            "it with srun or torchrun (docs/cluster.md)"
        )


def refuse_seed(seed: bool | int) -> None:
    """Refuses what is no seed for NumPy."""
    check_range("--seed_everything", int(seed), 0, 2**32 - 1)


def _refuse_counts(trainer: Any) -> None:
    """Refuses to accumulate, clip or validate by nothing; Lightning divides by these numbers once it trains."""
    check_range("--trainer.accumulate_grad_batches", trainer.accumulate_grad_batches, 1)
    check_range("--trainer.gradient_clip_val", trainer.gradient_clip_val, 0, note=", or null")
    off = "; --trainer.limit_val_batches 0 switches validation off"
    check_range("--trainer.check_val_every_n_epoch", trainer.check_val_every_n_epoch, 1, note=off)
    interval = trainer.val_check_interval
    if isinstance(interval, int | float) and not interval > 0:
        raise TaskError(
            f"--trainer.val_check_interval is {interval}, expected a number of batches, or a share of an epoch such as "
            f"0.25{off}"
        )


def _refuse_devices(trainer: Any) -> None:
    """Refuses GPUs that PyTorch does not see, and what is no number of devices."""
    count = torch.cuda.device_count()
    if trainer.accelerator in ("gpu", "cuda") and count == 0:
        raise TaskError(
            f"--trainer.accelerator {trainer.accelerator}: PyTorch sees no GPU here (torch.cuda.is_available() is "
            "false); leave it out to train on the CPU, or see `nvidia-smi` and which build of torch is installed"
        )
    devices = trainer.devices
    if not re.fullmatch(r"auto|-?\d+|\[?\d+(, *\d+)*,?\]?", str(devices)):
        raise TaskError(f"--trainer.devices is {devices!r}, expected auto, a number, or GPUs such as [0,1]")
    if count == 0 and trainer.accelerator in ("auto", "cpu") and str(devices) == "-1":
        raise TaskError(
            "--trainer.devices -1 is all GPUs, and PyTorch sees none here; on the CPU it is a number of processes"
        )
    numbers = devices if isinstance(devices, list) else str(devices).split(",")
    if count == 0 and trainer.accelerator in ("auto", "cpu") and len(numbers) > 1:
        shown = ",".join(map(str, numbers))
        raise TaskError(
            f"--trainer.devices {shown} names GPUs, and PyTorch sees none here; on the CPU it is a number of processes"
        )
