"""A finished training as a program sees it: its folder, and what lies there."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

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
        return read_summary(self.folder / SUMMARY)

    @property
    def score(self) -> float | None:
        """The number that runs are compared by, `val/mAP` or `val/mIoU`; None where it is not defined."""
        score: float | None = self.summary[self.summary["headline"]]
        return score

    def curve(self, name: str) -> dict[int, float]:
        """What was logged under a name, `train/loss` say, by step: from `metrics.csv`.

        Args:
            name: A column of the table.
        """
        _, rows = read_table(self.folder / TABLE)
        return {step: float(row[name]) for step, row in rows.items() if name in row}
