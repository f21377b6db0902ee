"""The report: one HTML file that holds all numbers, the code that shows them, and asks no server for anything.

What is computed over runs is computed here or follows from the numbers of all runs, never of those that a filter shows.
"""

import json
import shutil
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from tasks.comparison.costs import COSTS
from tasks.comparison.curves import Curve, fitting, images_per_step, read_curves
from tasks.comparison.keys import Keys
from tasks.comparison.runs import COUNTS, Run
from tasks.comparison.sections import Section, shortened
from tasks.errors import TaskError
from tasks.run.files import write_text

PAGE = files("tasks.comparison") / "page"
BUNDLE = "vega.js"
POINTS = 16_000
"""Points of all curves together: about 300 kB."""
PICTURES = 8
"""Pictures that are taken over from a run."""
TRAINING = "training.png"


def write_report(sections: Sequence[Section], folder: Path) -> Path:
    """Writes `index.html`, and the pictures of the runs beside it.

    Args:
        sections: The runs.
        folder: Where to; what is there of an earlier report is replaced.

    Returns:
        The page.

    Raises:
        TaskError: The bundle of the charts has not been built.
    """
    curves = fitting({run.folder: read_curves(run.folder) for part in sections for run in part.runs}, POINTS)
    content = {
        "made": datetime.now().astimezone().isoformat(timespec="minutes"),
        "sections": [_section(part, curves, folder) for part in sections if part.facts.keys() > {"task", "score"}],
        "unscored": [_state(run) for part in sections for run in part.runs if not run.summary],
    }
    write_text(folder / "index.html", assemble(content))
    return folder / "index.html"


def assemble(content: dict[str, Any]) -> str:
    """The page around its numbers.

    Raises:
        TaskError: The bundle of the charts has not been built.
    """
    if not (PAGE / BUNDLE).is_file():
        raise TaskError("the bundle of the charts is missing; make it with: python -m tasks.comparison.bundle")
    page = (PAGE / "page.html").read_text()
    # `<` could end the script element that holds the numbers.
    data = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    for mark, text in (
        ("/* page.css */", (PAGE / "page.css").read_text()),
        ("/* page.js */", (PAGE / "page.js").read_text()),
        ("/* licences.txt */", (PAGE / "licences.txt").read_text()),
        ("/* vega.js */", (PAGE / BUNDLE).read_text()),
        ("/* data.json */", data),
    ):
        page = page.replace(mark, text)
    return page


def _section(section: Section, curves: dict[Path, dict[str, Curve]], folder: Path) -> dict[str, Any]:
    keys = Keys([run for run in section.runs if run.summary])
    first = section.runs[0].summary
    return {
        "title": section.title,
        "facts": [[name, shortened(value), name in section.differs] for name, value in section.facts.items()],
        "headline": section.facts["score"],
        "beside": [name.partition("/")[2] for name in first["beside"]],
        "direction": first["direction"],
        "keys": [
            {"name": name, "label": keys.label(name), "shown": name in keys.shown} for name in (*keys.shown, *keys.offered)
        ],
        "costs": [{"name": cost.name, "label": cost.label} for cost in COSTS],
        "runs": [_run(run, keys, curves[run.folder], folder) for run in section.runs],
    }


def _run(run: Run, keys: Keys, curves: dict[str, Curve], folder: Path) -> dict[str, Any]:
    return _state(run) | {
        "seed": run.seed,
        "keys": keys.of(run),
        "scores": {name: value for name, value in run.scores.items() if name not in COUNTS},
        "costs": {cost.name: cost.of(run) for cost in COSTS},
        "images_per_step": images_per_step(run),
        "curves": curves,
        "pictures": _copy_pictures(run, folder),
    }


def _state(run: Run) -> dict[str, Any]:
    return {"name": run.name, "state": run.state, "reason": run.reason}


def _copy_pictures(run: Run, folder: Path) -> dict[str, str]:
    """Puts the pictures of a run beside the page; gives their places by their names."""
    taken = {}
    pictures = sorted((run.folder / "pictures").glob("*.png"), key=lambda file: (len(file.name), file.name))
    for picture in [picture for picture in pictures if picture.name != TRAINING][:PICTURES]:
        place = Path("pictures") / run.name.strip("/").replace("/", "-") / picture.name
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, folder / place)
        taken[picture.stem] = place.as_posix()
    return taken
