"""What an option was that a run's file does not have, because the run is older than the option."""

import inspect
from functools import cache
from importlib import import_module

from tasks.report.runs import Run, as_text

OWN = ("attention", "backbones", "datamodules", "tasks")
"""Packages whose classes are asked; no other code is imported because a file names it."""
TASKS = {"detect": "tasks.detection.DetectionOptions", "segment": "tasks.segmentation.SegmentationOptions"}


def option_of(run: Run, name: str) -> str | None:
    """The value of an option as `flat_options` writes it; where the run's file lacks it, the default of its class.

    Options are added with the behaviour that there was before as their default. None where the option is null, where
    the run has nothing that the option could belong to, and where its default cannot be told.
    """
    if name in run.options:
        return run.options[name]
    part, _, option = name.rpartition(".")
    owner = TASKS.get(str(run.summary.get("task"))) if part == "model" else run.options.get(part)
    return _default(owner, option) if owner is not None and owner.partition(".")[0] in OWN else None


@cache
def _default(path: str, option: str) -> str | None:
    module, _, name = path.rpartition(".")
    try:
        return as_text(inspect.signature(getattr(import_module(module), name)).parameters[option].default)
    except (ImportError, AttributeError, KeyError, TypeError, ValueError):  # another version's class, no plain value
        return None
