"""Whose a configuration file is: a recipe of another task, a sweep or a part of a recipe, given as `--config`."""

from collections.abc import Sequence
from pathlib import Path

import yaml

OWNERS = {"detector": "tasks.detect", "segmentor": "tasks.segment"}
"""The command that has an option `model.NAME`."""


def whose_config(arguments: Sequence[str], known: Sequence[str]) -> str | None:
    """A line about the first configuration file of a command line that belongs elsewhere, or None.

    Args:
        arguments: The arguments, with their files.
        known: Options of the command: `model.detector`.
    """
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in ("--config", "-c"):
            file = Path(value if equals else "".join(arguments[place + 1 : place + 2]))
            if file.is_file() and (line := _whose(file, known)):
                return line
    return None


def owner_of(option: str, known: Sequence[str]) -> str | None:
    """The command that has an option which this one has not, or None."""
    group, _, name = option.lstrip("-").partition(".")
    name = name.partition(".")[0]
    return OWNERS.get(name) if group == "model" and f"model.{name}" not in known else None


def _whose(file: Path, known: Sequence[str]) -> str | None:
    try:
        content = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    if not isinstance(content, dict):
        return None
    if "class_path" in content:
        option = {"backbones": "--model.backbone", "segmentors": "--model.segmentor", "data": "--data"}
        folder = file.resolve().parent.name
        return (
            f"{file} describes one class, {content['class_path']}; give it to the option that takes the class: "
            f"{option.get(folder, '--OPTION')} {file}"
        )
    if "task" in content and "config" in content:
        return f"{file} is a sweep, not a recipe; it is run by: python -m tasks.sweep {file}"
    model = content.get("model")
    for name in model if isinstance(model, dict) else ():
        if owner := owner_of(f"model.{name}", known):
            return f"{file} is a configuration of {owner}: python -m {owner} fit --config {file}"
    return None
