"""A training run as it lies in its folder: what it is, what it reached, and whether it may be counted."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from tasks.errors import TaskError
from tasks.near_names import instead
from tasks.report.curves import COUNTS, Curve, read_curves
from tasks.run.record import RECORD, RunRecord
from tasks.run.summary_file import SUMMARY, read_summary
from tasks.run.table_file import SECONDS

CONFIG, DATA, COSTS = "config.fit.yaml", "data.json", "costs.json"
LOSS = re.compile(r"loss(_.*)?")
"""Numbers of an evaluation that are curves, and no scores."""
State = Literal["finished", "unfinished", "broken"]


@dataclass(frozen=True)
class Run:
    """What a run folder says.

    Attributes:
        folder: The folder.
        state: `finished`; `unfinished`: it runs, was stopped or killed, and can go on; `broken`: it failed, or its
            files cannot be read.
        reason: Why it is not finished; empty where it is.
        summary: Content of `summary.json`, empty where there is none that can be read.
        data: Content of `data.json`, what is known of the splits.
        options: Resolved options by their dotted names, a class under the name of the option; None for null.
        command: The command line that started it.
        measured: What `python -m tasks.profile --runs` has measured of its network: content of `costs.json`.
        starts: When and where it was started and taken up again, and how each time ended: those of `run.json`.
        logged: Its curves where W&B has them; None of a run folder, whose `metrics.csv` has them.
    """

    folder: Path
    state: State
    reason: str = ""
    summary: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, str | None] = field(default_factory=dict)
    command: Sequence[str] = ()
    starts: Sequence[Mapping[str, Any]] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)
    logged: Mapping[str, Curve] | None = None

    @property
    def name(self) -> str:
        """What it is called: the folder that it was written to."""
        return str(self.summary.get("run", self.folder))

    @property
    def seed(self) -> int | None:
        """Its seed, where that is known."""
        return self.summary.get("seed")

    @property
    def score(self) -> float | None:
        """The number that it is compared by; None where it is not defined."""
        return self.summary.get(self.summary["headline"]) if self.summary else None

    @cached_property
    def scores(self) -> dict[str, float | None]:
        """All scores of its best evaluation as they stand in the summary, `mAP_small`, `AP/person`, by their names."""
        split = self.summary["headline"].partition("/")[0] + "/" if self.summary else "/"
        found = {name.removeprefix(split): value for name, value in self.summary.items() if name.startswith(split)}
        return {name: value for name, value in found.items() if name not in COUNTS and not LOSS.fullmatch(name)}

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """What it has logged."""
        return {name: curve for name, curve in self._all_curves.items() if name != SECONDS}

    @cached_property
    def times(self) -> dict[int, float]:
        """Seconds of training, by the steps that were done then; empty where they were not logged."""
        return dict(self._all_curves.get(SECONDS, ()))

    @cached_property
    def _all_curves(self) -> Mapping[str, Curve]:
        return read_curves(self.folder) if self.logged is None else self.logged

    @property
    def images_per_step(self) -> int | None:
        """Images of an optimiser step; None where its options are not known."""
        batch = self.options.get("data.batch_size")
        if batch is None:
            return None
        accumulated = int(self.options.get("trainer.accumulate_grad_batches") or 1)
        return int(batch) * int(self.summary.get("processes", 1)) * accumulated

    @property
    def classes(self) -> list[str]:
        """Names of the classes that it is scored by, in their order."""
        return list(dict.fromkeys(name.partition("/")[2] for name in self.scores if "/" in name))

    def rank(self) -> float:
        """Smaller is better; what is not defined comes last."""
        if self.score is None:
            return math.inf
        return self.score if self.summary["direction"] == "min" else -self.score


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads every run at or below some folders, in the order of their names.

    Raises:
        TaskError: There is none.
    """
    return [read_run(folder) for folder in find_folders(folders)]


def find_folders(folders: Sequence[Path]) -> list[Path]:
    """The run folders at or below some folders, in their order.

    Raises:
        TaskError: There is none.
    """
    found = {file.parent for folder in folders for file in _marks(folder)}
    if not found:
        places = ", ".join(map(str, folders)) or "nothing"
        raise TaskError(f"no {SUMMARY} below {places}; expected run folders such as runs/detect/NAME")
    return sorted(found)


def is_run_below(place: Path) -> bool:
    """Whether there is a run folder at or below a place."""
    return next(_marks(place), None) is not None


def _marks(place: Path) -> Iterator[Path]:
    """The files by which the run folders at or below a place are known."""
    return (file for name in (SUMMARY, RECORD) for file in place.rglob(name))


def ranked_by(runs: Sequence[Run], score: str) -> list[Run]:
    """The runs that have a score as if it were what they are compared by; the others as they are.

    Args:
        runs: The runs.
        score: One of their `scores`, such as `mask_mAP`; the larger the better.

    Raises:
        TaskError: No run has it.
    """
    known = {name for run in runs for name, value in run.scores.items() if value is not None}
    if score not in known:
        raise TaskError(f"--score {score} is no score of these runs{instead(score, sorted(known))}")
    return [replace(run, summary=_ranked_by(run.summary, score)) if score in run.scores else run for run in runs]


def _ranked_by(summary: Mapping[str, Any], score: str) -> dict[str, Any]:
    split = summary["headline"].partition("/")[0]
    beside = [name for name in (summary["headline"], *summary["beside"]) if name != f"{split}/{score}"]
    return {**summary, "headline": f"{split}/{score}", "direction": "max", "beside": beside}


def read_run(folder: Path) -> Run:
    """Reads a run folder; what cannot be read makes it broken, with the reason."""
    record: dict[str, Any] = _read_json(folder / RECORD)
    state, reason = _state(record)
    summary: dict[str, Any] = {}
    if (folder / SUMMARY).exists():
        try:
            summary = read_summary(folder / SUMMARY)
        except TaskError as error:
            state, reason = "broken", str(error)
    elif state == "finished":
        state, reason = "broken", f"it has no {SUMMARY}: no epoch was scored"
    options = flat_options(_read_yaml(folder / CONFIG))
    return Run(
        folder,
        state,
        reason,
        summary,
        _read_json(folder / DATA),
        options,
        record.get("command", ()),
        record.get("starts", ()),
        _read_json(folder / COSTS),
    )


def _state(record: Mapping[str, Any]) -> tuple[State, str]:
    status, step = record.get("status", "finished"), record.get("step", 0)
    exit_words = RunRecord(status=status, reason=record.get("reason", "")).exit
    if status == "finished":
        return "finished", ""
    if status in ("failed", "stopped"):
        return "broken" if status == "failed" else "unfinished", f"{exit_words}; saved at step {step}"
    # The record of a run is written when it starts and when it ends.
    return "unfinished", exit_words + (f"; taken up at step {step}" if step else "")


def _read_json(file: Path) -> dict[str, Any]:
    """Its content; empty where there is no such file, or one that is no object."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def flat_options(content: Mapping[str, Any], prefix: str = "") -> dict[str, str | None]:
    """Options by their dotted names: `model.backbone` is the class, `model.backbone.width` an option of it."""
    flat: dict[str, str | None] = {}
    for name, value in content.items():
        path = prefix.removesuffix(".") if name in ("class_path", "init_args") else f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= flat_options(value, f"{path}.")
        else:
            flat[path] = as_text(value)
    return flat


def as_text(value: Any) -> str | None:
    """The value of an option as text; None for null.

    Raises:
        TypeError: It is no plain value.
    """
    return value if value is None or isinstance(value, str) else json.dumps(value)
