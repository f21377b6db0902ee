"""Options that every run has, whatever its task."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from tasks.host_options import HostOptions
from tasks.ranges import check_range
from tasks.run.folder import Resume
from tasks.run.wandb_run import WandbOptions


def add_run_options(parser: LightningArgumentParser) -> None:
    """Adds the name and the folder of a run, how it begins, is saved and ends, and what its recipe asks of a host."""
    parser.add_argument("--name", type=str | None, default=None, help="Name of the run. Default: the config's.")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="Folder of all runs.")
    parser.add_argument(
        "--resume",
        type=Resume | None,
        default=None,
        help="`auto` goes on with the run of this name from its newest good checkpoint, if there is one; `must` "
        "fails if there is none; `never` starts a run of its own. Default: `auto` where Slurm or torchrun has "
        "started this same job again, else `never`.",
    )
    parser.add_argument(
        "--new_schedule",
        type=bool,
        default=False,
        help="With a checkpoint: take optimiser, rate and schedule from here instead of from the checkpoint.",
    )
    parser.add_class_arguments(HostOptions, "host")
    parser.add_class_arguments(WandbOptions, "wandb")
    parser.add_class_arguments(RunOptions)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run does around its steps.

    Attributes:
        save_every_n_steps: Optimiser steps between additional writes of last.ckpt within an epoch.
        save_every_n_minutes: Minutes between additional writes of last.ckpt within an epoch.
        stop_within: Seconds after a stop signal until the process leaves without having reached the end of a step. Less
            than the cluster's grace period (Slurm's KillWait, 30 by default).
        skip_bad_steps: Steps with losses or gradients that are not finite that may be skipped one after another before
            the run ends; above 0, every step is checked before it is taken.
        check_every_step: Check before every step that losses and gradients are finite, also on a GPU, where each step
            then waits for the device; otherwise the answer comes a step later, before anything is saved.
        ema_decay: Average the weights with this decay per step (0.999, say); validation and best.ckpt use the average.
        keep_evaluation: Write evaluation.npz beside the best score: what every image adds to it, which comparisons of
            runs read (about 5 bytes a detection, or 1 kB an image of ADE20K).
    """

    save_every_n_steps: int | None = None
    save_every_n_minutes: float | None = 30.0
    stop_within: float = 25.0
    skip_bad_steps: int = 0
    check_every_step: bool = False
    ema_decay: float | None = None
    keep_evaluation: bool = True

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_range("--save_every_n_steps", self.save_every_n_steps, 1, note=", or null")
        check_range("--save_every_n_minutes", self.save_every_n_minutes, 0, note=", or null")
        check_range("--stop_within", self.stop_within, 0)
        check_range("--skip_bad_steps", self.skip_bad_steps, 0)
        check_range("--ema_decay", self.ema_decay, 0, 1, note=", such as 0.999")

    @classmethod
    def of(cls, config: Any) -> "RunOptions":
        """Those among the options of a command line."""
        return cls(**{field.name: config[field.name] for field in fields(cls)})
