"""Runs of W&B as the runs of a report: those of offline files, and those of a project on a server.

What a run folder has and W&B has not: `evaluation.npz`, so there are no intervals, and scores in double precision.
"""

import json
import math
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.errors import TaskError
from tasks.report.curves import COUNTS, Curve
from tasks.report.runs import Run, State, find_runs, flat_options, is_run_below
from tasks.report.wandb_file import Logged, numbers
from tasks.run.exit_codes import MEANINGS
from tasks.run.summary_file import completed

SECONDS = 600
"""Longest wait for an answer of W&B, a project of hundreds of runs."""
STEP = "trainer/global_step"
STOPS = {code: words.partition(";")[0] for code, words in MEANINGS.items() if "to be continued" in words}
"""What W&B calls failed, and can go on."""
REASONS: dict[str, tuple[State, str]] = {
    "finished": ("finished", ""),
    "running": ("unfinished", "running, or killed"),
    "crashed": ("unfinished", "W&B has not heard of it for minutes: killed, or without a network"),
    "killed": ("unfinished", "killed"),
    "failed": ("broken", "failed, or stopped before its end; W&B does not say why"),
}


def find_everywhere(places: Sequence[Path], project: str | None = None) -> list[Run]:
    """Reads runs from folders and from W&B.

    Args:
        places: Run folders, or folders above them; where there are none, offline runs of W&B.
        project: `ENTITY/PROJECT` on W&B's server.

    Raises:
        TaskError: There is none, or W&B cannot be read.
    """
    offline = [file for place in places if not is_run_below(place) for file in sorted(place.rglob("run-*.wandb"))]
    folders = [place for place in places if is_run_below(place)]
    found = [*(read_files(offline) if offline else ()), *(read_project(project) if project else ())]
    return [*(find_runs(folders) if folders else ()), *found] or find_runs(places)


def read_files(files: Sequence[Path]) -> list[Run]:
    """Reads runs from files of W&B; those of the starts of one run together.

    Raises:
        TaskError: One is damaged.
    """
    parts: dict[str, list[Logged]] = {}
    for part in (Logged(**content) for content in ask_wandb("files", *map(str, files))):
        parts.setdefault(part.id, []).append(part)
    places = {file.stem.removeprefix("run-"): file.parent for file in files}
    return [as_run(joined(starts), places[name]) for name, starts in parts.items()]


def read_project(path: str) -> list[Run]:
    """Reads the runs of a project, `ENTITY/PROJECT`, through W&B's API.

    Raises:
        TaskError: It cannot be read, or has no runs.
    """
    entity, project = split_project(path, "--wandb")
    found = [Logged(**content) for content in ask_wandb("project", path)]
    if not found:
        raise TaskError(f"--wandb {path}: there are no runs in it")
    return [as_run(run, Path(entity, project, run.id)) for run in found]


def split_project(path: str, option: str) -> tuple[str, str]:
    """Entity and project.

    Raises:
        TaskError: It is no `ENTITY/PROJECT`.
    """
    entity, _, project = path.partition("/")
    if not entity or not project or "/" in project:
        raise TaskError(f"{option} {path} is no project of W&B, expected ENTITY/PROJECT")
    return entity, project


def ask_wandb(*arguments: str, given: str = "") -> Any:
    """The answer of the process that W&B runs in; see `wandb_reader`.

    Raises:
        TaskError: It has none.
    """
    command = [sys.executable, "-m", "tasks.report.wandb_reader", *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, input=given, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise TaskError(f"W&B has not answered within {SECONDS} s") from error
    if answer.returncode:
        told = [line for line in answer.stderr.splitlines() if line] or ["its process has ended without a word"]
        raise TaskError(f"W&B: {told[-1].removeprefix('error: ')}")
    return json.loads(answer.stdout)


def joined(starts: Sequence[Logged]) -> Logged:
    """The starts of one run, in their order."""
    last = starts[-1]
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    for start in starts:
        config |= start.config
        summary |= start.summary
    rows = [row for start in starts for row in start.rows]
    return Logged(last.name, last.id, last.state, last.exit_code, config, summary, rows)


def as_run(logged: Logged, place: Path) -> Run:
    """A run as its folder would have it.

    Args:
        logged: What W&B has.
        place: What stands for its folder.
    """
    state, reason = REASONS.get(logged.state, ("broken", f"W&B calls it {logged.state}"))
    if logged.exit_code:
        stopped, words = logged.exit_code in STOPS, MEANINGS.get(logged.exit_code, "failed")
        state, reason = ("unfinished" if stopped else "broken"), STOPS.get(logged.exit_code, words.partition(";")[0])
    named = logged.config.get("facts")
    if not isinstance(named, list) or "headline" not in named:
        return Run(place, "broken", "not logged by attndense, or by an earlier version: its config names no facts")
    facts = {name: logged.config.get(name) for name in named}
    class_names = facts.pop("class_names", None) or []
    options = {name: value for name, value in logged.config.items() if name not in (*named, "facts", "_wandb")}
    best = _best_row(logged.rows, str(facts["headline"]), str(facts["direction"]))
    if not best and state == "finished":
        state, reason = "broken", "no epoch was scored"
    of_curves = {name for row in logged.rows for name in row}
    told = _told(class_names, of_curves, logged.summary, best) | {"run": logged.name, "exit": reason or state}
    summary = completed(facts | told) if best else {}
    kept = {name: value for name, value in options.items() if not name.startswith("data/")}
    return Run(place, state, reason, summary, _splits(options), flat_options(kept), logged=_curves(logged.rows))


def _best_row(rows: Sequence[Mapping[str, Any]], headline: str, direction: str) -> dict[str, Any]:
    """The scores of the best evaluation, the first of equal ones, as in training; empty without any."""
    scored = [row for row in rows if headline in numbers(row)]
    sign = 1 if direction == "max" else -1
    defined = [row for row in scored if math.isfinite(row[headline])]
    best = max(defined, key=lambda row: sign * row[headline], default=scored[-1] if scored else {})
    split = headline.partition("/")[0] + "/"
    scores = {name: value if math.isfinite(value) else None for name, value in numbers(best).items()}
    return {name: value for name, value in scores.items() if name.startswith(split)} | (
        {"step": int(best[STEP]) + 1} if STEP in best else {}
    )


def _told(
    class_names: Sequence[str], logged: Collection[str], summary: Mapping[str, Any], best: Mapping[str, Any]
) -> dict[str, Any]:
    """Numbers of the best evaluation, those of classes in their order, and what else training has told at its end."""
    order = {name: place for place, name in enumerate(class_names)}
    of_classes = [(*name.split("/", 2), name) for name in summary if name.count("/") > 1]
    of_classes.sort(key=lambda parts: (parts[1], order.get(parts[2], len(order)), parts[2]))
    told = [parts[-1] for parts in of_classes]
    told += [name for name in summary if "/" not in name and not name.startswith("_") and name not in logged]
    return {**best, **{name: _defined(summary[name]) for name in told}}


def _defined(value: Any) -> Any:
    """W&B writes a number that is not defined as NaN, or as text."""
    return None if value == "NaN" or value != value else value


def _splits(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`data/training/images: 100` as `data.json` has it."""
    splits: dict[str, dict[str, Any]] = {}
    for name, value in options.items():
        if name.startswith("data/"):
            _, split, fact = name.split("/", 2)
            splits.setdefault(split, {})[fact] = value
    return splits


def _curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """What it has logged, with six digits, over the steps that were done."""
    curves: dict[str, Curve] = {}
    for row in rows:
        known = numbers(row)
        for name, value in known.items():
            is_curve = "/" in name and name != STEP and name.partition("/")[2] not in COUNTS
            if is_curve and STEP in known and math.isfinite(value):
                curves.setdefault(name, []).append((int(known[STEP]) + 1, float(f"{value:.6g}")))
    return {name: sorted(dict(curve).items()) for name, curve in curves.items()}
