"""Options in Python: by their names on the command line, read by its parser, and refused in its words."""

import io
import json
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tasks.errors import TaskError
from tasks.near_names import instead
from tasks.run.checkpoint_options import AT_INFERENCE, LINKED

CHANGEABLE = tuple(f"model.{name.replace('.init_args', '')}" for name in AT_INFERENCE)
"""Options that change no weight, by their names on the command line."""
_OF_ONE = {"detect": ("model.detector", "model.windows", "model.scored_detections"), "segment": ("model.segmentor",)}


def as_arguments(options: Mapping[str, object]) -> list[str]:
    """Options as arguments of the command line, in their order; classes are named, null is None.

    Args:
        options: Values by the names of their options, with or without the two dashes; `NAME+` adds to a list.
    """
    arguments = []
    for name, value in options.items():
        name = name.lstrip("-").removesuffix("=")
        arguments.append(f"--{name}={_text(value)}")
    return arguments


def with_options(
    checkpoint: str | Path, task: str, options: Mapping[str, object]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `predict` would build a checkpoint's model and data module of, with some options in place of its own.

    Args:
        checkpoint: The file.
        task: `detect` or `segment`.
        options: Options by their names on the command line, such as `model.windows.size`.

    Raises:
        TaskError: An option is refused, or one that a trained network is not free in.
    """
    _require_changeable(task, options)
    arguments = ["predict", f"--ckpt_path={checkpoint}", "--data.images=.", *as_arguments(options), "--print_config"]
    with redirect_stdout(io.StringIO()) as shown:
        try:
            import_module(f"tasks.{task}").command_line(arguments)  # imported by nobody who needs it not
        except SystemExit as end:
            if end.code:
                raise
    config = yaml.safe_load(shown.getvalue())
    del config["data"]["init_args"]["images"]
    return {name: value for name, value in config["model"].items() if name not in LINKED}, config["data"]


def _require_changeable(task: str, options: Mapping[str, object]) -> None:
    known = [name for name in CHANGEABLE if name.startswith(_OF_ONE[task])]
    for name in options:
        if not name.startswith(("data.", *(f"{option}." for option in known))) and name not in known:
            near = instead(name, known)
            expected = near if "did you mean" in near else f"; expected {', '.join(known)}, or an option of data"
            raise TaskError(f"{name} is no option that this checkpoint leaves open{expected}")


def _text(value: object) -> str:
    """The value of an option as it is written on the command line."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    return str(value) if isinstance(value, str | Path) else json.dumps(value, default=str)
