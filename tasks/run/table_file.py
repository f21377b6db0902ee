"""`metrics.csv` as a file, read without the libraries that write it."""

import csv
import io
from pathlib import Path
from typing import Any

TABLE = "metrics.csv"
SECONDS = "seconds"
"""Column of the time when a row was last added to, by the run's clock."""
Row = dict[str, Any]


class DamagedTable(ValueError):
    """A file is no table of metrics; the message says why."""


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
