"""By what runs can be told apart: backbone, attention, head, recipe, and whatever else of their options differs."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from tasks.report.defaults import option_of
from tasks.report.runs import Run

NAMED = ("backbone", "attention", "head")
"""Keys that every table shows."""
FACTS = ("recipe", "start", "image_size", "processes")
"""Keys that a table shows where they differ, beside the options that differ."""
OFFERED = ("seed", "device", "git", "torch", "versions")
"""Keys by which no table is grouped unless it is asked for: runs that differ in nothing else are folded."""
UNRELATED = re.compile(
    r"seed_everything|name|runs|resume|new_schedule|ckpt_path|weights_only|check_every_step|stop_within|save_every_.*|"
    r"(wandb|pictures|reports|writer)\b.*|data\.(root|num_workers|images|training_targets)|model\.validation_loss|"
    r"trainer\.(accelerator|strategy|logger.*|callbacks.*|enable_.*|log_every_n_steps|default_root_dir|"
    r"num_sanity_val_steps|profiler|devices|num_nodes|limit_(test|predict)_batches|barebones|detect_anomaly)"
)
"""Options that make no other configuration."""
COVERED = {"model.backbone": ("backbone", "attention"), "model.detector": ("head",), "model.segmentor": ("head",)}
"""Options below these are left out where the keys say them: an attention has its own options."""


class Keys:
    """The keys of runs that may be ranked together.

    Args:
        runs: The runs.

    Attributes:
        shown: Keys that tell the configurations apart, in their order: runs that agree in them are seeds of one.
        offered: Further ones.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        facts = [_facts(run) for run in runs]
        self.shown = [*NAMED, *(name for name in FACTS if len({known.get(name, "") for known in facts}) > 1)]
        self.shown += [name for name in _differing_options(runs) if not _is_covered(runs, name)]
        known = {name for of_run in facts for name in of_run}
        self.offered = [name for name in (*FACTS, *OFFERED) if name in known and name not in self.shown]

    def of(self, run: Run) -> dict[str, str]:
        """The values of a run, empty where it has none."""
        facts = _facts(run)
        return {name: facts.get(name) or option_of(run, name) or "" for name in (*self.shown, *self.offered)}

    def label(self, name: str) -> str:
        """What a key is called: the last part of an option that tells it from the other keys."""
        parts = name.split(".")
        others = [other.split(".") for other in (*self.shown, *self.offered) if other != name]
        for length in range(1, len(parts)):
            if all(other[-length:] != parts[-length:] for other in others):
                return ".".join(parts[-length:])
        return name


def _facts(run: Run) -> dict[str, str]:
    names = (*NAMED, *FACTS, *OFFERED)
    facts = {name: str(run.summary[name]) for name in names if run.summary.get(name) is not None}
    return {"recipe": recipe, **facts} if (recipe := _recipe(run.command)) else facts


def _recipe(command: Sequence[str]) -> str:
    """Names of the configuration files of a command, without their endings."""
    named = [(word, value) for word, value in pairwise([*command, ""]) if word.partition("=")[0] == "--config"]
    return "+".join(Path(value if word == "--config" else word.partition("=")[2]).stem for word, value in named)


def _differing_options(runs: Sequence[Run]) -> list[str]:
    names = sorted({name for run in runs for name in run.options if not UNRELATED.fullmatch(name)})
    known = [run for run in runs if run.options]
    return [name for name in names if len({option_of(run, name) for run in known}) > 1]


def _is_covered(runs: Sequence[Run], option: str) -> bool:
    """Whether the value of an option follows from the keys that name its part."""
    for part, names in COVERED.items():
        if option == part or option.startswith(f"{part}."):
            pairs = {(tuple(run.summary.get(name) for name in names), option_of(run, option)) for run in runs}
            return len(pairs) == len({named for named, _ in pairs})
    return False
