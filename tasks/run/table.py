"""`metrics.csv`: every logged number of a run in one table, a row per step, over all starts of the run."""

import csv
import io
import os
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from tasks.run.clock import RunClock
from tasks.run.files import write_text
from tasks.run.set_aside import set_aside
from tasks.run.table_file import SECONDS, TABLE, DamagedTable, Row, read_table

FLUSH_SECONDS = 5
"""Rows of this time may be lost in a power cut; a killed process loses none."""


class CSVMetrics(Logger):
    """Writes every logged number to one table, and continues the table when a run is resumed.

    New rows of known columns, the usual case, are appended; a new column, or a number for a row that is written,
    rewrites the table through a temporary file. So a kill can only cut the last line, while it is appended, and reading
    leaves such a line out.

    Args:
        folder: The run folder.
        file_name: Name of the table.
        clock: Tells how long the run has trained; what it shows when a row is added to is the row's `seconds`.
    """

    def __init__(self, folder: Path, file_name: str = TABLE, clock: RunClock | None = None) -> None:
        super().__init__()
        self.clock = clock
        self.file = folder / file_name
        self._columns = ["step"]
        self._last_step: int | None = None  # of the file; None: what lies there is not of this run
        self._pending: dict[int, Row] = {}
        self._flushed = 0.0

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

    def continue_from(self, step: int) -> dict[int, Row]:
        """Takes over the rows of the interrupted run; a damaged table is set aside, with a line.

        Args:
            step: Optimiser steps of the checkpoint that is resumed from; rows of later steps are dropped, as they will
                be logged again.

        Returns:
            The rows that are kept, by their step, on the first rank; values are text.

        Raises:
            OSError: The table cannot be read or written.
        """
        if rank_zero_only.rank != 0 or not self.file.exists():
            return {}
        rows = {number: row for number, row in self._read().items() if number <= step}
        self._rewrite(rows)
        return rows

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds numbers to the row of a step."""
        step = step or 0
        time_of_row = {} if self.clock is None else {SECONDS: round(self.clock.seconds, 2)}
        self._pending.setdefault(step, {"step": step}).update(time_of_row | dict(metrics))

    @rank_zero_only
    def save(self) -> None:
        """Writes what has been logged since the last call.

        Raises:
            OSError: The disk is full, or the folder is gone or may not be written.
        """
        if not self._pending:
            return
        last_step = self._last_step if self.file.exists() else None
        has_new_columns = any(not row.keys() <= set(self._columns) for row in self._pending.values())
        if last_step is not None and min(self._pending) > last_step and not has_new_columns:
            self._append()
        else:
            rows = {} if last_step is None else self._read()
            self._rewrite(rows | {step: rows.get(step, {}) | row for step, row in self._pending.items()})
        self._pending = {}

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes what is left."""
        self.save()

    def _append(self) -> None:
        lines = _as_csv(self._columns, self._pending).encode()
        with self.file.open("r+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if file.write(lines) != len(lines):
                file.truncate(end)
                raise OSError(f"no space left on the device for {self.file}")
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                os.fsync(file.fileno())
                self._flushed = time.monotonic()
        self._last_step = max(self._pending)

    def _rewrite(self, rows: dict[int, Row]) -> None:
        if self._last_step is not None and not self.file.parent.is_dir():
            raise FileNotFoundError(f"the run folder {self.file.parent} is gone")
        columns = list(dict.fromkeys(["step", *self._columns, *(name for row in rows.values() for name in row)]))
        write_text(self.file, _as_csv(columns, {}, header=True) + _as_csv(columns, rows))
        self._columns, self._last_step = columns, max(rows, default=-1)

    def _read(self) -> dict[int, Row]:
        try:
            self._columns, rows = read_table(self.file)
            return rows
        except DamagedTable as error:
            set_aside(self.file, str(error))
            return {}


def _as_csv(columns: list[str], rows: dict[int, Row], header: bool = False) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    if header:
        table.writeheader()
    table.writerows(rows[step] for step in sorted(rows))
    return text.getvalue()
