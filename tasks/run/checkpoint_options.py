"""Which model options a checkpoint decides, and which the command line."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from tasks.run.resume import SCHEDULE, flatten

AT_INFERENCE = (
    "detector.init_args.score_threshold",
    "detector.init_args.nms_threshold",
    "detector.init_args.max_detections",
    "windows",
    "scored_detections",
    "segmentor.init_args.inference",
)
"""Options that change no weight: given explicitly, they take effect with every checkpoint."""

OF_THE_MACHINE = ("channels_last", "compile_backbone", "validation_loss")
"""Options of how the same numbers are computed, and of what is looked at: always the command line's."""

STARTING_WEIGHTS = ("weights", "backbone.init_args.weights")
"""Files that a model starts from: a checkpoint has weights of its own."""
LINKED = ("class_names", "category_ids", "image_size")


def merge_options(
    saved: Mapping[str, Any], given: Mapping[str, Any], explicit: Mapping[str, Any], new_schedule: bool
) -> tuple[dict[str, Any], list[str]]:
    """Puts the model options of a checkpoint and of a command line together.

    Args:
        saved: Hyperparameters in the checkpoint: nested options of the task.
        given: Model options of the command line and its files, with all defaults.
        explicit: Those of them that somebody has written down.
        new_schedule: Optimiser, schedule and parameter rules are the command line's.

    Returns:
        The options to build the model with, and what the checkpoint overrules, as `option: given -> saved`.
    """
    merged = {name: deepcopy(value) for name, value in saved.items() if name[0] != "_" and name not in LINKED}
    written = flatten(explicit)
    taken = OF_THE_MACHINE + (SCHEDULE if new_schedule else ())
    taken += tuple(option for option in AT_INFERENCE if any(_is_part(name, option) for name in written))
    for option in taken:
        _copy(given, merged, option.split("."))
    for option in STARTING_WEIGHTS:
        _clear(merged, option.split("."))
    built = flatten(merged)
    overruled = [
        f"{name}: {value} -> {built[name]}"
        for name, value in sorted(written.items())
        if name in built
        and _plain(built[name]) != _plain(value)
        and not any(_is_part(name, own) for own in STARTING_WEIGHTS)
    ]
    return merged, overruled


def _is_part(name: str, option: str) -> bool:
    return name == option or name.startswith(option + ".")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _copy(source: Any, target: Any, keys: list[str]) -> None:
    for key in keys[:-1]:
        if not isinstance(source, Mapping) or not isinstance(target, dict) or key not in source or key not in target:
            return
        source, target = source[key], target[key]
    if isinstance(source, Mapping) and isinstance(target, dict) and keys[-1] in source:
        target[keys[-1]] = deepcopy(source[keys[-1]])


def _clear(target: Any, keys: list[str]) -> None:
    for key in keys[:-1]:
        if not isinstance(target, dict) or key not in target:
            return
        target = target[key]
    if isinstance(target, dict) and keys[-1] in target:
        target[keys[-1]] = None
