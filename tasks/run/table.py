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

from tasks.run.files import write_text
from tasks.run.set_aside import set_aside

FLUSH_SECONDS = 5
"""Rows of this time may be lost in a power cut; a killed process loses none."""

Row = dict[str, Any]


class DamagedTable(ValueError):
    """A file is no table of metrics; the message says why."""


class CSVMetrics(Logger):
    """Writes every logged number to one table, and continues the table when a run is resumed.

    New rows of known columns, the usual case, are appended; a new column, or a number for a row that is written,
    rewrites the table through a temporary file. So a kill can only cut the last line, while it is appended, and reading
    leaves such a line out.

    Args:
        folder: The run folder.
        file_name: Name of the table.
    """

    def __init__(self, folder: Path, file_name: str = "metrics.csv") -> None:
        super().__init__()
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
        self._pending.setdefault(step, {"step": step}).update(metrics)

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


def read_table(file: Path) -> tuple[list[str], dict[int, Row]]:
    """Reads a table that `CSVMetrics` has written; a last line that a kill has cut is left out.

    Returns:
        The columns, and the rows by their step; values are text, and missing ones are left out.

    Raises:
        DamagedTable: It is something else.
        OSError: It cannot be read.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DamagedTable("not UTF-8") from error
    if "\0" in text:
        raise DamagedTable("bytes of zero")
    whole = text[: text.rfind("\n") + 1]
    try:
        columns, *lines = csv.reader(io.StringIO(whole, newline=""), strict=True)
    except csv.Error as error:
        raise DamagedTable(str(error)) from error
    except ValueError as error:
        raise DamagedTable("empty") from error
    if "step" not in columns or len(set(columns)) < len(columns):
        raise DamagedTable("no column 'step' in its first line, or a column twice")
    rows = {}
    for number, values in enumerate(lines, start=2):
        row = dict(zip(columns, values, strict=False))
        if len(values) != len(columns) or not row["step"].isdecimal():
            raise DamagedTable(f"line {number}: expected {len(columns)} values, with a whole number as step")
        rows[int(row["step"])] = {name: value for name, value in row.items() if value != ""}
    return columns, rows


def _as_csv(columns: list[str], rows: dict[int, Row], header: bool = False) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    if header:
        table.writeheader()
    table.writerows(rows[step] for step in sorted(rows))
    return text.getvalue()
