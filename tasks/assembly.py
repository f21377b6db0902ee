"""What a training run has around Lightning's trainer, put together alike for the command line and for Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, LearningRateMonitor

from tasks.callbacks import Performance, ReplacedSamples, StepSeed
from tasks.headline import Headline
from tasks.run.checkpoint_files import CHECKPOINTS, CheckpointFiles
from tasks.run.cluster import cluster_environment
from tasks.run.guard import NumbersGuard
from tasks.run.job import Job
from tasks.run.life import RunLife
from tasks.run.loop import install
from tasks.run.start import RunStart
from tasks.run.stop import StopRequests
from tasks.run.table import CSVMetrics
from tasks.run.wandb_run import WandbRun
from tasks.run_options import RunOptions

LOG_EVERY = 50
"""Steps between rows of the table, where nothing else is said: Lightning's own default."""


def make_life(
    task: str, folder: Path, headline: Headline, stop: StopRequests, config: str, options: RunOptions, saves: bool
) -> RunLife:
    """Makes what saves a run and carries out what its processes agree on.

    Args:
        task: `detect` or `segment`.
        folder: The run folder.
        headline: The number by which the best checkpoint is chosen.
        stop: The stop signals of this process.
        config: The configuration of this start as yaml, kept with a step that is not finite.
        options: Of the run.
        saves: Whether there are checkpoints.
    """
    return RunLife(
        folder / CHECKPOINTS if saves else None,
        headline,
        stop,
        NumbersGuard(folder, task, config, options.skip_bad_steps, options.check_every_step),
        options.save_every_n_steps,
        options.save_every_n_minutes,
    )


def training_callbacks(life: RunLife, seed: int, ema_decay: float | None, log_every: int | None) -> list[Callback]:
    """The callbacks that training has, beside those that show and record it.

    Args:
        life: What saves the run.
        seed: Of the run.
        ema_decay: Decay of averaged weights; None averages none.
        log_every: Steps between rows of the table; None where nothing is logged.
    """
    callbacks: list[Callback] = [StepSeed(seed), life, ReplacedSamples()]
    if ema_decay is not None:
        callbacks.append(EMAWeightAveraging(decay=ema_decay))
    if log_every is not None:
        callbacks += [LearningRateMonitor(), Performance(log_every)]
    return callbacks


def make_plugins(given: Any, start: RunStart | None, job: Job) -> list[Any]:
    """The trainer's plugins: those of a user, the files of checkpoints, and the processes that others have started.

    Args:
        given: `plugins` of the user: one, several, or None.
        start: How the run begins; none where nothing is claimed.
        job: The job of this process.
    """
    files = CheckpointFiles()
    files.lock = None if start is None else start.lock
    cluster = cluster_environment(job)
    return [*listed(given), files, *([] if cluster is None else [cluster])]


def listed(given: Any) -> list[Any]:
    """What a user gives as one object, several, or None."""
    return list(given) if isinstance(given, Sequence) else [] if given is None else [given]


def take_over(trainer: Trainer, life: RunLife | None) -> None:
    """Gives a trainer loops with exact boundaries, and takes the signals from it."""
    if life is not None:
        install(trainer, life)
    # Signals are the run's, not Lightning's: its handler of SIGTERM is a collective call.
    trainer._signal_connector.register_signal_handlers = lambda: None


def go_on(trainer: Trainer, start: RunStart | None) -> None:
    """Lets `metrics.csv` and W&B go on where the checkpoint is."""
    if start is None or not start.start.continues:
        return
    table = next((logger for logger in trainer.loggers if isinstance(logger, CSVMetrics)), None)
    rows = None if table is None else table.continue_from(start.start.step - 1)  # rows count from 0
    for logger in trainer.loggers:
        if isinstance(logger, WandbRun) and rows:
            logger.catch_up(rows)
