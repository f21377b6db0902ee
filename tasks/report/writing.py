"""The report: one HTML file that holds all numbers, the code that shows them, and asks no server for anything.

What is computed over runs is computed here or follows from the numbers of all runs, never of those that a filter shows.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from tasks.errors import TaskError
from tasks.report.content import report_content
from tasks.report.known_runs import KnownRuns
from tasks.report.sections import Section
from tasks.run.files import write_text

PAGE = files("tasks.report") / "page"
PARTS = ("page.css", "licences.txt", "vega.js")
SCRIPTS = ("elements.js", "runs.js", "charts.js", "difference.js", "images.js", "section.js", "page.js")
"""What shows the numbers; the last one starts it."""


def write_report(sections: Sequence[Section], folder: Path, resamples: int = 1000, about: Sequence[str] = ()) -> Path:
    """Writes `index.html`, and the pictures of the runs beside it.

    Args:
        sections: The runs.
        folder: Where to; what is there of an earlier report is replaced.
        resamples: Resamples of the images for differences; 0 leaves them out.
        about: Paragraphs that stand above the numbers.

    Returns:
        The page.

    Raises:
        TaskError: The bundle of the charts has not been built.
    """
    require_bundle()
    content = report_content(sections, folder, resamples, KnownRuns((), resamples).scores)  # in little memory
    write_text(folder / "index.html", assemble({**content, "about": about}))
    return folder / "index.html"


def require_bundle() -> None:
    """Looks for the code of the charts.

    Raises:
        TaskError: It has not been built.
    """
    if not (PAGE / "vega.js").is_file():
        raise TaskError("the code of the charts is missing; make it with: python -m tasks.report.bundle")


def assemble(content: Mapping[str, Any], live: bool = False) -> str:
    """The page around its numbers.

    Args:
        content: The numbers.
        live: Whether it asks its own server, and nobody else, for newer ones of another `version`.
    """
    page = (PAGE / "page.html").read_text()
    page = page.replace("/* connect-src */", "; connect-src 'self'" if live else "")
    for part in PARTS:
        page = page.replace(f"/* {part} */", (PAGE / part).read_text())
    scripts = (*SCRIPTS, "live.js") if live else SCRIPTS
    page = page.replace("/* scripts */", "\n".join((PAGE / script).read_text() for script in scripts))
    # `<` could end the script element that holds the numbers.
    data = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return page.replace("/* data.json */", data)
