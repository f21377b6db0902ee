"""A command from its start to its exit code: what is shown of the libraries, and how it ends."""

import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import torch
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.seed import isolate_rng

from tasks.class_options import own_defaults
from tasks.run import exit_codes
from tasks.run.failures import Failure
from tasks.run.processes import LEAVE, LocalProcesses
from tasks.run.stop import StopRun
from tasks.run.wandb_run import finish_wandb

Made = TypeVar("Made")
QUIET = (
    r"`isinstance\(treespec, LeafSpec\)`",  # between Lightning and PyTorch
    r"Checkpoint directory .* exists and is not empty",  # it belongs to the run that is continued
    r"Be aware that when using `ckpt_path`, callbacks",  # predictions need none of training's callbacks
    r"Found \d+ module\(s\) in eval mode",  # frozen stages and norms, as the configuration says
    r"Fail to import ``MultiScaleDeformableAttention``",  # mmcv without compiled operators, as installed on purpose
    r"Default ``avg_non_ignore`` is False",  # MMSegmentation's published baselines were trained with its default
    r"It is recommended to use `self.log\(.*, sync_dist=True\)`",  # metrics are equal on all processes already
    r"The `srun` command is available on your system but is not used",  # one process needs none
    r"does not have many workers which may be a bottleneck",  # the share of time spent waiting for data is logged
    r"LightningCLI's args parameter is intended to run from within Python",
)
"""Warnings of libraries about which a user can and need do nothing."""

QUIET_LOG = (
    r"Tip: For seamless cloud",  # advertisements
    r"^TPU available: False",
    r"Seed set to \d+",  # of every process; the seed is in the configuration and in summary.json
    r"^Restoring states from the checkpoint path",  # the line after it says that they are restored
    r"^Loading `train_dataloader` to estimate number of stepping batches",
    r"^`weights_only` was not set",  # of the file that a finder has just written and reads back
)
"""The same for what they log."""


def run(cli: Callable[[], object]) -> None:
    """Runs a command line; it ends as `exit_codes.MEANINGS` says, and the last line on stderr says why it has failed.

    Args:
        cli: Function without arguments that constructs the command line.

    Raises:
        SystemExit: With the exit code, unless that is 0.
    """
    with helpful_output(), own_defaults(), without_subnormals(), LocalProcesses() as processes:
        exit_code = _exit_code(cli, processes)
        processes.is_done()
        finish_wandb(exit_code, seconds=None if exit_code == exit_codes.FINISHED else LEAVE / 2)
        failure = processes.end()
    if failure is not None:
        exit_code = failure.exit_code
        if processes.prints():
            print(failure.line(), file=sys.stderr, flush=True)  # noqa: T201
    if exit_code != exit_codes.FINISHED:
        sys.exit(exit_code)


def run_within(command: Callable[[], Made]) -> Made:
    """Runs a command within a program that goes on: as `run` does, but what has ended it is raised.

    Random numbers, and Lightning's seed in the environment, are afterwards what they were before: a program that draws
    its seeds by chance would otherwise get the same ones after every run.

    Args:
        command: Function without arguments.

    Raises:
        KeyboardInterrupt: The command was stopped by SIGINT.
        SystemExit: It was stopped by another signal; uncaught, it ends the program with the command's exit code.
    """
    made: list[Made] = []
    raised: list[BaseException] = []

    def keep() -> None:
        try:
            made.append(command())
        except BaseException as error:
            raised.append(error)
            raise

    with _own_seeds(), suppress(SystemExit):
        run(keep)
    if not raised:
        return made[0]
    stopped = raised[0]
    if not isinstance(stopped, StopRun):
        raise stopped
    raise KeyboardInterrupt if stopped.signal == signal.SIGINT else SystemExit(stopped.exit_code) from stopped


@contextmanager
def _own_seeds() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    isolated = isolate_rng(include_cuda=torch.cuda.is_initialized())
    isolated.__enter__()
    try:
        yield
    finally:
        isolated.__exit__(None, None, None)  # it restores nothing where it hears of an error
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def without_subnormals() -> Iterator[None]:
    """Takes numbers below 1e-38 for zero on this process's CPU while the context lasts.

    Sharp softmaxes and vanishing gradients are full of them, and a CPU computes with them many times slower: a detector
    with criss-cross attention trained at 5 images a second instead of 24, from some epoch on.
    """
    torch.set_flush_denormal(True)  # threads that are started later inherit it
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _exit_code(cli: Callable[[], object], processes: LocalProcesses) -> int:
    try:
        cli()
    except SystemExit as end:
        if not isinstance(end.code, str):
            return end.code or exit_codes.FINISHED
        processes.note(Failure(end.code, exit_codes.FAILED))  # Python's own meaning of a text
        return exit_codes.FAILED
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    except Exception as error:  # whatever it is, it ends here
        failure = processes.failed(error)
        return error.exit_code if failure is None else failure.exit_code  # type: ignore[attr-defined]  # StopRun
    return exit_codes.FINISHED


@contextmanager
def helpful_output() -> Iterator[None]:
    """Shows what `backbones` says about the weights it loads, and leaves `QUIET` and `QUIET_LOG` out."""
    handler, reports = logging.StreamHandler(), logging.getLogger("backbones")
    handler.addFilter(lambda record: getattr(rank_zero_only, "rank", 0) == 0)
    level = reports.level
    reports.addHandler(handler)
    reports.setLevel(logging.INFO)
    libraries = [handler for name in ("lightning.pytorch", "lightning.fabric") for handler in _handlers(name)]
    for library in libraries:
        library.addFilter(_is_helpful)
    try:
        with warnings.catch_warnings():
            for message in QUIET:
                warnings.filterwarnings("ignore", f".*{message}")
            yield
    finally:
        reports.removeHandler(handler)
        reports.setLevel(level)
        for library in libraries:
            library.removeFilter(_is_helpful)


def _handlers(name: str) -> list[logging.Handler]:
    return logging.getLogger(name).handlers


def _is_helpful(record: logging.LogRecord) -> bool:
    return not any(re.search(pattern, record.getMessage()) for pattern in QUIET_LOG)
