"""A finished training as a program sees it: its folder, and what lies there."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.errors import TaskError
from tasks.near_names import instead
from tasks.run.checkpoint_files import BEST, CHECKPOINTS, LAST
from tasks.run.summary_file import SUMMARY, read_summary
from tasks.run.table_file import TABLE, read_table


@dataclass(frozen=True)
class TrainedRun:
    """A training run that has ended.

    Attributes:
        folder: The run folder, as the command line leaves it.
    """

    folder: Path

    def __post_init__(self) -> None:
        """Takes a path that is written, too."""
        object.__setattr__(self, "folder", Path(self.folder).absolute())

    @property
    def best(self) -> Path:
        """The checkpoint with the best score; where no validation had one, the last."""
        best = self.folder / CHECKPOINTS / BEST
        return best if best.exists() else self.last

    @property
    def last(self) -> Path:
        """The checkpoint to continue from."""
        return self.folder / CHECKPOINTS / LAST

    @cached_property
    def summary(self) -> dict[str, Any]:
        """`summary.json`: the numbers of the best evaluation, and what they depend on."""
        if not (self.folder / SUMMARY).is_file():
            raise TaskError(f"{self.folder} has no {SUMMARY}: nothing of it was scored")
        return read_summary(self.folder / SUMMARY)

    @property
    def score(self) -> float | None:
        """The number that runs are compared by, `val/mAP` or `val/mIoU`; None where it is not defined, or not known."""
        score: float | None = self.summary.get(self.summary["headline"])
        return score

    @property
    def curves(self) -> list[str]:
        """Names of what was logged: the columns of `metrics.csv`."""
        columns, _ = read_table(self.folder / TABLE)
        return [name for name in columns if name != "step"]

    def curve(self, name: str) -> dict[int, float]:
        """What was logged under a name, `train/loss` say, by step: from `metrics.csv`.

        Args:
            name: One of `curves`.

        Raises:
            TaskError: Nothing was logged under it.
        """
        columns, rows = read_table(self.folder / TABLE)
        if name not in columns:
            raise TaskError(f"{name!r} was not logged in {self.folder}{instead(name, self.curves, 'curves')}")
        return {step: float(row[name]) for step, row in rows.items() if name in row}
