"""`--trainer.logger` in all its forms: none, the usual two, or loggers of the user's beside the table."""

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any

from lightning.pytorch.loggers import Logger

from tasks.errors import TaskError
from tasks.run.table import CSVMetrics
from tasks.run.wandb_run import WandbRun

PACKAGES = {
    "TensorBoardLogger": ("tensorboard", "tensorboardX"),
    "MLFlowLogger": ("mlflow", "mlflow_skinny"),
    "CometLogger": ("comet_ml",),
    "NeptuneLogger": ("neptune",),
    "LitLogger": ("litlogger",),
}
"""Loggers of Lightning whose packages are not installed with it; one of each row will do."""


def check_loggers(given: Any) -> None:
    """Looks at the loggers that a configuration names, before anything is built.

    Args:
        given: `trainer.logger` as parsed: None, a bool, a class with its options, or a list of such.

    Raises:
        TaskError: A logger's package is missing, or it is W&B's, which `--wandb` has options for.
    """
    for entry in given if isinstance(given, list) else [given]:
        path = entry.get("class_path") if isinstance(entry, Mapping) else getattr(entry, "class_path", None)
        name = str(path).rpartition(".")[2]
        if name == "WandbLogger":
            raise TaskError(
                "--trainer.logger WandbLogger would let W&B end the run; leave it out: W&B is on by itself, and "
                "--wandb.mode, --wandb.project, --wandb.group and --wandb.tags set it"
            )
        packages = PACKAGES.get(name, ())
        if packages and not any(find_spec(package) for package in packages):
            remedy = f"install it: pip install {packages[0]}"
            if name == "TensorBoardLogger":
                remedy = "install the extra: pip install -e '.[tensorboard]'"
            raise TaskError(f"--trainer.logger {name} needs the package {packages[0]}; {remedy}")


def assemble_loggers(
    given: Logger | Iterable[Logger] | bool | None, table: CSVMetrics, tracker: WandbRun | None
) -> list[Logger]:
    """The loggers of a command.

    Args:
        given: `trainer.logger`, built: False for no logger at all, loggers of the user's own, or None or True for ours.
        table: `metrics.csv`, which is there unless no logger is wanted.
        tracker: The W&B run, if there is one; loggers of the user's own take its place.
    """
    if given is False:
        return []
    if given is None or given is True:
        return [table] if tracker is None else [table, tracker]
    return [table, *([given] if isinstance(given, Logger) else given)]
