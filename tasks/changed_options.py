"""Options of the moment for a checkpoint in Python: those that the command line takes with every checkpoint, too."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from tasks.errors import TaskError
from tasks.near_names import instead
from tasks.run.checkpoint_options import AT_INFERENCE

CHANGEABLE = tuple(f"model.{name.replace('.init_args', '')}" for name in AT_INFERENCE)
"""Options that change no weight, by their names on the command line."""


def changed(saved: Mapping[str, Any], options: Mapping[str, object], part: str) -> dict[str, Any]:
    """What a checkpoint says of its model or data module, with some options in place of its own.

    Args:
        saved: The options by their names, classes as `class_path` and `init_args`.
        options: Options by their names on the command line, such as `model.windows.size`.
        part: `model` or `data`; others are left to whom they belong to.
    """
    content = deepcopy(dict(saved))
    for name, value in options.items():
        owner, *path = name.split(".")
        if owner == part:
            _set(content, path, value)
    return content


def require_changeable(options: Mapping[str, object]) -> None:
    """Refuses options that a trained network is not free in.

    Raises:
        TaskError: There is one.
    """
    for name in options:
        if not name.startswith(("data.", *(f"{known}." for known in CHANGEABLE))) and name not in CHANGEABLE:
            known = ", ".join(CHANGEABLE)
            raise TaskError(
                f"{name} is no option that a checkpoint leaves open{instead(name, [*CHANGEABLE])}; expected {known}, "
                "or an option of data, such as data.pipeline.test_scale"
            )


def _set(content: dict[str, Any], path: list[str], value: object) -> None:
    inside = content.get("init_args", {}) if "class_path" in content else content
    if len(path) == 1:
        inside[path[0]] = value
    else:
        if not isinstance(inside.get(path[0]), dict):
            inside[path[0]] = {}
        _set(inside[path[0]], path[1:], value)
    if "class_path" in content:
        content["init_args"] = inside
