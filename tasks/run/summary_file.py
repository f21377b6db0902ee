"""`summary.json` as a file: what it is called, and what can be read of those that earlier versions wrote."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.errors import TaskError
from tasks.run.files import write_text

SUMMARY = "summary.json"
_UNNAMED = {"detect": ("val/mAP", "detector"), "segment": ("val/mIoU", "segmentor")}
"""Headline and model of the summaries that name neither, by their task; both had `max` as their direction."""


def of_command(file: str, subcommand: str) -> str:
    """Name of a file that a command writes into its run folder: that of another one than `fit` stands in it.

    Args:
        file: Its name in training, such as `summary.json`.
        subcommand: `fit`, `validate` or `test`.
    """
    stem, _, ending = file.partition(".")
    return file if subcommand == "fit" else f"{stem}.{subcommand}.{ending}"


def read_summary(path: Path) -> dict[str, Any]:
    """Reads the summary of a run.

    Returns:
        Its content: `headline` is the name of the number that runs are compared by, `direction` whether the largest
        (`max`) or the smallest (`min`) is the best, `beside` the scores that are shown with it, `head` what stands on
        the backbone.

    Raises:
        TaskError: It is no summary, or one that does not name its headline.
    """
    try:
        content = json.loads(path.read_text())
        task = content["task"]
    except (ValueError, KeyError, TypeError) as error:
        raise TaskError(f"{path} is not the summary of a run ({type(error).__name__})") from error
    if "headline" in content:
        return completed(content)
    if task not in _UNNAMED:
        raise TaskError(f"{path} does not say which number runs of {task!r} are compared by: it has no `headline`")
    headline, model = _UNNAMED[task]
    return {**content, "headline": headline, "direction": "max", "beside": [], "head": content[model]}


def completed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A summary with the scores `beside` its headline as a list, as `read_summary` gives it."""
    return {**content, "beside": [name for name in content.get("beside", "").split(", ") if name]}


def update_summary(folder: Path, facts: Mapping[str, Any]) -> None:
    """Adds facts to the summary of training in a run folder; where none lies that can be read, it is left as it is."""
    try:
        content = json.loads((folder / SUMMARY).read_text())
    except (OSError, ValueError):
        return
    if isinstance(content, dict):
        write_text(folder / SUMMARY, json.dumps({**content, **facts}, indent=2) + "\n")


def shown_scores(summary: Mapping[str, Any]) -> str:
    """Headline of a summary and the scores beside it, in words: `mAP 0.378, mask_mAP 0.345`."""
    words = []
    for name in (summary["headline"], *summary["beside"]):
        value = summary.get(name)
        words.append(f"{name.partition('/')[2]} {'not defined' if value is None else f'{value:.3f}'}")
    return ", ".join(words)
