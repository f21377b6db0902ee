"""The process that talks to W&B for `tasks.compare`: `python -m tasks.report.wandb_reader`.

W&B stays in a process of its own, as in training. It is given `files FILE...` or `project ENTITY/PROJECT`, and prints
the runs as a JSON list, or `report` and a report as JSON on its input, and prints the report's address. Where it
cannot, it says so in one line on the other output.
"""

import contextlib
import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.report.wandb_file import Logged, read_file
from tasks.report.wandb_writer import save_report

ROWS = 10_000
"""Rows of a history that are asked for; of longer ones W&B gives a sample."""
SECONDS = 30
"""Longest wait for an answer of the server."""


def read_project(path: str) -> list[Logged]:
    """Reads the runs of a project through W&B's API."""
    import wandb

    runs = wandb.Api(timeout=SECONDS).runs(path, per_page=100, lazy=False)
    return [
        Logged(run.name, run.id, run.state, None, dict(run.config), _plain(run.summary_metrics), _rows(run))
        for run in runs
    ]


def _plain(content: Any) -> dict[str, Any]:
    """Plain data of W&B's own kinds of dictionaries."""
    return dict(json.loads(json.dumps(dict(content), default=dict)))


def _rows(run: Any) -> list[dict[str, Any]]:
    """The history, and all evaluations, which a sample may lack."""
    split = str(run.config.get("headline")).partition("/")[0]
    summary = _plain(run.summary_metrics)
    scores = [name for name, value in summary.items() if re.fullmatch(f"{split}/[^/]+", name) and _is_score(value)]
    rows: dict[int, dict[str, Any]] = {}
    for keys in ({}, {"keys": ["trainer/global_step", *scores]}) if scores else ({},):
        for row in run.history(samples=ROWS, pandas=False, **keys):
            rows.setdefault(row["_step"], {}).update(row)
    return [rows[step] for step in sorted(rows)]


def _is_score(value: Any) -> bool:
    """Whether it is a number that is defined, or the best of them; a picture is neither."""
    if isinstance(value, dict):
        return value.keys() <= {"max", "min"}
    return isinstance(value, int | float) and math.isfinite(value)


def main(arguments: Sequence[str]) -> None:
    """Does what is asked, and prints the answer."""
    kind, *named = arguments
    with contextlib.redirect_stdout(sys.stderr):  # W&B's own words
        if kind == "report":
            answer: Any = save_report(json.load(sys.stdin))
        else:
            found = read_project(*named) if kind == "project" else [read_file(Path(name)) for name in named]
            answer = [asdict(run) for run in found]
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Exception as error:
        sys.exit(f"error: {' '.join(str(error).split()) or type(error).__name__}")
