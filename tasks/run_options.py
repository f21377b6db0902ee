"""Options of the command line that every run has, whatever its task."""

from pathlib import Path

from lightning.pytorch.cli import LightningArgumentParser

from tasks.host_options import HostOptions
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
    parser.add_argument(
        "--save_every_n_steps",
        type=int | None,
        default=None,
        help="Optimiser steps between additional writes of last.ckpt within an epoch.",
    )
    parser.add_argument(
        "--save_every_n_minutes",
        type=float | None,
        default=30.0,
        help="Minutes between additional writes of last.ckpt within an epoch.",
    )
    parser.add_argument(
        "--stop_within",
        type=float,
        default=25.0,
        help="Seconds after a stop signal until the process leaves without having reached the end of a step. Less "
        "than the cluster's grace period (Slurm's KillWait, 30 by default).",
    )
    parser.add_argument(
        "--skip_bad_steps",
        type=int,
        default=0,
        help="Steps with losses or gradients that are not finite that may be skipped one after another before the "
        "run ends; above 0, every step is checked before it is taken.",
    )
    parser.add_argument(
        "--check_every_step",
        type=bool,
        default=False,
        help="Check before every step that losses and gradients are finite, also on a GPU, where each step then "
        "waits for the device; otherwise the answer comes a step later, before anything is saved.",
    )
    parser.add_argument(
        "--ema_decay",
        type=float | None,
        default=None,
        help="Average the weights with this decay per step (0.999, say); validation and best.ckpt use the average.",
    )
    parser.add_argument(
        "--keep_evaluation",
        type=bool,
        default=True,
        help="Write evaluation.npz beside the best score: what every image adds to it, which comparisons of runs read "
        "(about 5 bytes a detection, or 1 kB an image of ADE20K).",
    )
