"""Which runs may be ranked together: those with the same ground truth, scored in the same way."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from tasks.report.defaults import option_of
from tasks.report.runs import Run

EVALUATION = re.compile(r"limit_val_batches|max_images|\.inference\b|\.test_|boundary_width|detections_per_image")
"""Options that decide what is scored, and how: part of the images, windows, several scales."""
LOOKS = ("annotations", "folder", "findings", "missing files", "headers read", "masks read")
"""Facts of a split that say where it lies and how closely it was looked at, not what it is."""
UNKNOWN = "not known"
SHORT = 60
"""Characters of a fact that are shown."""


@dataclass(frozen=True)
class Section:
    """Runs that may be ranked together.

    Attributes:
        title: What tells it from the other sections, in a line.
        facts: What they have in common, by what it is.
        differs: Those of the facts in which other sections differ.
        runs: Finished runs from best to worst, then the others.
    """

    title: str
    facts: dict[str, str]
    differs: tuple[str, ...]
    runs: tuple[Run, ...]

    @property
    def is_scored(self) -> bool:
        """Whether its runs have a summary."""
        return bool(self.runs[0].summary)

    @property
    def finished(self) -> tuple[Run, ...]:
        """The runs that count."""
        return tuple(run for run in self.runs if run.state == "finished")

    @property
    def others(self) -> tuple[Run, ...]:
        """The runs that are shown, and are in no number."""
        return tuple(run for run in self.runs if run.state != "finished")


def ranked_together(run: Run, options: Iterable[str] = ()) -> dict[str, str]:
    """What two runs must agree in to be ranked together, by what it is.

    Args:
        run: One of them.
        options: Names of options that the others have; where this run is older than an option, its default counts.

    Returns:
        Task and score, classes, the ground truth as far as the run has written that down, number of images scored, and
        the options of the evaluation.
    """
    if not run.summary:
        return {"task": UNKNOWN, "score": UNKNOWN}
    split, score = run.summary["headline"].split("/", 1)
    classes = run.classes
    images = run.summary.get(f"{split}/images")
    return {
        "task": str(run.summary["task"]),
        "score": score,
        "classes": f"{len(classes)} ({', '.join(classes)})" if classes else UNKNOWN,
        "ground truth": _ground_truth(run, split),
        "images scored": UNKNOWN if images is None else f"{images:.0f}",
        "evaluation": ", ".join(f"{name} {value}" for name, value in _evaluation(run, options)) or "the usual one",
    }


def _evaluation(run: Run, options: Iterable[str]) -> list[tuple[str, str]]:
    """The options that decide what is scored; null is as good as none."""
    names = sorted(name for name in {*run.options, *options} if EVALUATION.search(name))
    return [(name, value) for name in names if (value := option_of(run, name)) is not None]


def shortened(text: str) -> str:
    """The beginning of a long text, and digits that tell it from others with the same beginning."""
    if len(text) <= SHORT:
        return text
    return f"{text[:SHORT].rpartition(',')[0]}, ... [{sha256(text.encode()).hexdigest()[:6]}]"


def _ground_truth(run: Run, split: str) -> str:
    """The hash of what was scored; of runs that have none, what was known of the split."""
    facts = run.data.get("validation" if split == "val" else split, {})
    if "data_hash" in run.summary:
        return f"{facts.get('images', UNKNOWN)} images, hash {run.summary['data_hash']}"
    return ", ".join(f"{value} {name}" for name, value in facts.items() if name not in LOOKS) or UNKNOWN


def in_sections(runs: Sequence[Run]) -> list[Section]:
    """Divides runs into those that may be ranked together, by task and score, the largest of them first."""
    together: dict[tuple[str, ...], list[Run]] = {}
    options = {name for run in runs for name in run.options}
    facts = [ranked_together(run, options) for run in runs]
    for run, known in zip(runs, facts, strict=True):
        together.setdefault(tuple(known.values()), []).append(run)
    sections: list[Section] = []
    titles: Counter[str] = Counter()
    for members in sorted(together.values(), key=len, reverse=True):
        own = ranked_together(members[0], options)
        rivals = [other for other in facts if (other["task"], other["score"]) == (own["task"], own["score"])]
        differs = tuple(name for name in own if any(other[name] != own[name] for other in rivals))
        ordered = sorted(members, key=lambda run: (run.state != "finished", run.rank(), run.name))
        title = _title(own, differs)
        titles[title] += 1
        numbered = title if titles[title] == 1 else f"{title} ({titles[title]})"
        sections.append(Section(numbered, own, differs, tuple(ordered)))
    return sorted(sections, key=lambda section: (section.facts["task"], section.facts["score"]))


def _title(facts: dict[str, str], differs: Sequence[str]) -> str:
    """Task, score and the beginning of what differs."""
    if "classes" not in facts:
        return "not scored"
    told = [f"{name} {re.split(' [(]|, ', facts[name])[0]}" for name in differs if facts[name] != UNKNOWN]
    return ", ".join([facts["task"], facts["score"], *told])
