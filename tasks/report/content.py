"""The numbers of a report, as its page reads them."""

import os
from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image

from tasks.callbacks.pictures import OF_THE_BEST, PICTURES, TRAINING_PICTURE
from tasks.comparison import RunScores, read_run
from tasks.report.costs import Cost, costs_of, measured_on
from tasks.report.curves import Curve, fitting
from tasks.report.differences import differences
from tasks.report.groups import in_groups
from tasks.report.keys import Keys
from tasks.report.runs import Run
from tasks.report.sections import Section, shortened

POINTS = 6_000
"""Points of all curves together: about 100 kB."""
SHOWN = 16
"""Pictures that are taken over from a run."""


def report_content(
    sections: Sequence[Section], folder: Path, resamples: int, read: Callable[[Path, str], RunScores] = read_run
) -> dict[str, Any]:
    """Collects all numbers, and puts the pictures of the runs beside the page.

    Args:
        sections: The runs.
        folder: Folder of the page.
        resamples: Resamples of the images for differences; 0 leaves them out.
        read: Reads the evaluation of a run folder by a score.
    """
    curves = fitting({run.folder: run.curves for part in sections for run in part.runs}, POINTS)
    return {
        "made": datetime.now().astimezone().isoformat(timespec="minutes"),
        "sections": [_section(part, curves, folder, resamples, read) for part in sections if part.is_scored],
        "unscored": [_state(run) for part in sections if not part.is_scored for run in part.runs],
    }


def _section(
    section: Section,
    curves: dict[Path, dict[str, Curve]],
    folder: Path,
    resamples: int,
    read: Callable[[Path, str], RunScores],
) -> dict[str, Any]:
    keys = Keys(section.finished)
    groups = in_groups(section.runs, keys, keys.shown)
    first = section.runs[0].summary
    costs = costs_of(section.finished or section.runs)
    runs = [_run(run, keys, costs, curves[run.folder], folder) for run in section.runs]
    pictured = list(dict.fromkeys(name for run in runs for name in run["pictures"]))
    names = [*keys.shown, *keys.offered]
    return {
        "title": section.title,
        "facts": [[name, shortened(value), name in section.differs] for name, value in section.facts.items()],
        "headline": section.facts["score"],
        "beside": [name.partition("/")[2] for name in first["beside"]],
        "direction": first["direction"],
        "keys": [{"name": name, "label": keys.label(name), "shown": name in keys.shown} for name in names],
        "costs": [{"name": cost.name, "label": cost.label} for cost in costs],
        "measured": measured_on(section.finished),
        "runs": runs,
        "differences": differences(groups, resamples, pictured, read) if resamples and len(groups) > 1 else None,
    }


def _run(run: Run, keys: Keys, costs: Sequence[Cost], curves: dict[str, Curve], folder: Path) -> dict[str, Any]:
    return _state(run) | {
        "seed": run.seed,
        "keys": keys.of(run),
        "scores": run.scores,
        "costs": {cost.name: cost.of(run) for cost in costs},
        "images_per_step": run.images_per_step,
        "curves": curves,
        "times": _times(run, curves),
        "pictures": _copy_pictures(run, folder),
    }


def _state(run: Run) -> dict[str, Any]:
    return {"id": str(run.folder), "name": run.name, "state": run.state, "reason": run.reason}


def _times(run: Run, curves: dict[str, Curve]) -> list[tuple[int, float]]:
    """Steps at which a point of a curve lies, and the seconds of training until then."""
    shown = {step for curve in curves.values() for step, _ in curve}
    return [(step, seconds) for step, seconds in run.times.items() if step in shown]


def _copy_pictures(run: Run, folder: Path) -> dict[str, str]:
    """Puts the pictures of a run, of its best epoch where they were kept, beside the page; places by names.

    They are written as WebP, a quarter of their size; what is there already of the same picture stays.
    """
    taken = {}
    kept = run.folder / PICTURES / OF_THE_BEST
    pictures = sorted(
        (kept if kept.is_dir() else kept.parent).glob("*.png"), key=lambda file: (len(file.name), file.name)
    )
    for picture in [picture for picture in pictures if picture.name != TRAINING_PICTURE][:SHOWN]:
        name = sha256(str(run.folder).encode()).hexdigest()[:12]
        place = Path("pictures") / name / f"{picture.stem}.webp"
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        written = picture.stat().st_mtime_ns
        if not (folder / place).exists() or (folder / place).stat().st_mtime_ns != written:
            with Image.open(picture) as image:
                image.save(folder / place, quality=90)
            os.utime(folder / place, ns=(written, written))
        taken[picture.stem] = place.as_posix()
    return taken
