"""`python -m tasks.compare RUNS... --wandb-report ENTITY/PROJECT`: the comparison as a report in W&B.

Charts and tables of runs are W&B's own, of the runs that it has; the numbers that W&B cannot work out, differences with
their intervals, are text from here. Tried against a stand-in of W&B's server only.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from tasks.errors import TaskError
from tasks.report.differences import differences
from tasks.report.groups import Group, in_groups
from tasks.report.keys import Keys
from tasks.report.known_runs import KnownRuns
from tasks.report.runs import Run
from tasks.report.sections import Section
from tasks.report.tables import markdown
from tasks.report.wandb_runs import ask_wandb, split_project
from tasks.run.wandb_messenger import ID

COSTS = (("config", "parameters"), ("config", "MACs"), ("summary", "peak_memory_MB"), ("summary", "seconds"))
"""Costs that W&B has of a run, and where."""


@dataclass(frozen=True)
class Part:
    """What the report says of runs that may be ranked together.

    Attributes:
        title: Its heading.
        text: Tables in Markdown.
        score: The number that runs are compared by, as its curve is called.
        best: Where W&B has its best value.
        ids: The runs, as far as W&B has them.
        costs: Place and name of what they cost.
    """

    title: str
    text: str
    score: str
    best: str
    ids: tuple[str, ...]
    costs: tuple[tuple[str, str], ...]


def write_wandb_report(sections: Sequence[Section], project: str, resamples: int) -> str:
    """Makes a report in a project of W&B that has the runs.

    Args:
        sections: The runs.
        project: `ENTITY/PROJECT`.
        resamples: Resamples of the images for differences; 0 leaves them out.

    Returns:
        Its address.

    Raises:
        TaskError: wandb-workspaces is not installed, no run is in W&B, or W&B refuses the report.
    """
    entity, name = split_project(project, "--wandb-report")
    if find_spec("wandb_workspaces") is None:
        raise TaskError("--wandb-report needs wandb-workspaces; install the extra: pip install -e '.[wandb-report]'")
    parts = [_part(section, resamples) for section in sections if section.finished]
    if not any(part.ids for part in parts):
        raise TaskError(f"--wandb-report {project}: none of the finished runs was logged with W&B: they have no {ID}")
    content = {"entity": entity, "project": name, "parts": [asdict(part) for part in parts]}
    return str(ask_wandb("report", given=json.dumps(content)))


def _part(section: Section, resamples: int) -> Part:
    summary = section.runs[0].summary
    keys = Keys(section.finished)
    groups = in_groups(section.runs, keys, keys.shown)
    text = [markdown([section])]
    if resamples and len(groups) > 1:
        text.append(difference_table(groups, resamples))
    ids = tuple(name for run in section.finished if (name := wandb_id(run)))
    return Part(
        section.title,
        "\n\n".join(text),
        summary["headline"],
        f"{summary['headline']}.{summary['direction']}",
        ids,
        COSTS,
    )


def wandb_id(run: Run) -> str | None:
    """The id of a run in W&B; None where W&B has not been told of it."""
    if run.logged is not None:
        return run.folder.name.rpartition("-")[2] if run.folder.name.startswith("offline-run-") else run.folder.name
    try:
        return (run.folder / ID).read_text().strip() or None
    except OSError:
        return None


def difference_table(groups: Sequence[Group], resamples: int) -> str:
    """What each group scores more than the baseline, in Markdown, and why some are missing.

    The baseline is the group without attention; where there is none, the best.
    """
    found = differences(groups, resamples, read_scores=KnownRuns((), resamples).scores)  # in little memory
    by_folder = {str(run.folder): group for group in groups for run in group.runs}
    compared = [by_folder[arm["runs"][0]] for arm in found["arms"]]
    lines = [f"- {words}" for words in found["left_out"]]
    if len(compared) > 1:
        names = list(map(_names(compared), compared))
        base = next((place for place, group in enumerate(compared) if group.keys.get("attention") == "none"), 0)
        head = ("candidate", "difference", "95 % interval", "P(better)", "p, Holm", "runs")
        rows = [head, ("---",) * len(head)]
        others = [place for place in range(len(compared)) if place != base]
        rows += [(names[place], *_row(found, base, place), str(len(compared[place].runs))) for place in others]
        table = ["| " + " | ".join(row) + " |" for row in rows]
        words = f"Candidates minus {names[base]}, on the same images; p corrected over all candidates."
        lines = [words, "", *table, "", *lines]
    return "\n".join(lines)


def _names(groups: Sequence[Group]) -> Any:
    """What tells a group from the others."""
    varying = [key for key in groups[0].keys if len({group.keys[key] for group in groups}) > 1]
    return lambda group: ", ".join(group.keys[key] or "-" for key in varying) or group.runs[0].name


def _row(found: dict[str, Any], base: int, place: int) -> tuple[str, ...]:
    """A pair is kept once; the other way round it has the other sign."""
    first, second = sorted((base, place))
    value, low, high, above, _, with_seeds, _ = found["pairs"][first][second - first - 1]
    if place < base:
        value, low, high = (None if one is None else -one for one in (value, high, low))
        above = None if above is None else 1 - above
    interval = "-" if low is None else f"{low:+.4f} to {high:+.4f}"
    corrected = found["corrected"][base][place]
    shown = ["-" if one is None else f"{one:.3f}" for one in (above, corrected)]
    return "-" if value is None else f"{value:+.4f}", interval + ("" if with_seeds else " (without the seed)"), *shown
