"""The two loggers of a run: `metrics.csv` in the run folder, and Weights & Biases."""

import csv
import os
import secrets
import sys
import warnings
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only


@dataclass
class WandbOptions:
    """Weights & Biases.

    Attributes:
        mode: `auto` logs online where an API key is known and offline otherwise, without a question; `disabled` does
            without W&B. Offline runs are uploaded later with `wandb sync RUN_FOLDER/wandb/offline-run-*`. The
            environment variable WANDB_MODE beats `auto`.
        project: Project that runs are collected in.
        group: Group within the project. Default: the task.
        tags: Tags of the run.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "attndense"
    group: str | None = None
    tags: list[str] | None = None


def make_wandb_logger(options: WandbOptions, task: str, folder: Path) -> WandbLogger | None:
    """Makes the W&B logger of a run, or none where W&B is disabled.

    The run's id is derived from its folder once and kept there, so that a resumed run continues its curves.
    """
    mode = options.mode if options.mode != "auto" else os.environ.get("WANDB_MODE", "auto")
    if mode == "disabled":
        return None
    if mode == "auto":
        mode = "online" if rank_zero_only.rank == 0 and _can_log_in() else "offline"
    return WandbLogger(
        name=folder.name,
        save_dir=folder,
        id=_wandb_id(folder),
        offline=mode != "online",
        mode=mode,
        project=options.project,
        group=options.group or task,
        tags=options.tags,
        resume="allow",
    )


def _can_log_in() -> bool:
    """True where W&B knows a key and its server accepts it; never asks a question."""
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        return bool(wandb.login(prompt=False))
    except wandb.errors.Error as error:
        warnings.warn(f"W&B cannot be reached, this run is logged offline: {error}", stacklevel=2)
        return False


def finish_wandb() -> None:
    """Closes the W&B run of this process, if there is one, so that the next command gets its own."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].finish()


def _wandb_id(folder: Path) -> str | None:
    """The id of the folder's W&B run; the first process makes it up, the others never use it."""
    file = folder / "wandb_id.txt"
    if rank_zero_only.rank == 0 and not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(secrets.token_hex(6))
    return file.read_text() if file.exists() else None


class CSVMetrics(Logger):
    """Writes every logged number to one table, a row per step, and continues the table when a run is resumed.

    Args:
        folder: The run folder.
        file_name: Name of the table.
    """

    def __init__(self, folder: Path, file_name: str = "metrics.csv") -> None:
        super().__init__()
        self.file = folder / file_name
        self._rows: dict[int, dict[str, Any]] = {}
        self._columns: list[str] = ["step"]

    @property
    def name(self) -> str:
        """Unused: the folder is given."""
        return ""

    @property
    def version(self) -> str:
        """Unused: the folder is given."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.file.parent)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **_: Any) -> None:
        """Hyperparameters are in the resolved config and in `summary.json`."""

    @rank_zero_only
    def continue_from(self, step: int) -> None:
        """Takes over the rows of the interrupted run up to the checkpoint that it resumes from."""
        if self.file.exists():
            with self.file.open(newline="") as lines:
                rows = [row for row in csv.DictReader(lines) if int(row["step"]) <= step]
            self._rows = {int(row["step"]): dict(row) for row in rows}
            self._columns = list(rows[0]) if rows else self._columns

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Adds numbers to the row of a step."""
        step = 0 if step is None else step
        self._rows.setdefault(step, {"step": step}).update(metrics)
        self._columns += [name for name in metrics if name not in self._columns]

    @rank_zero_only
    def save(self) -> None:
        """Writes the table, through a temporary file so that a kill leaves the old or the new one."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_suffix(".csv.tmp")
        with temporary.open("w", newline="") as lines:
            table = csv.DictWriter(lines, self._columns, restval="")
            table.writeheader()
            table.writerows(self._rows[step] for step in sorted(self._rows))
        temporary.replace(self.file)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes what is left."""
        if self._rows:
            self.save()
