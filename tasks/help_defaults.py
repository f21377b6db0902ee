"""The values of a recipe as the defaults that the help shows: `fit --config FILE --model.optimizer.lr.help`."""

from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tasks.argument_order import CONFIG
from tasks.choices import choices
from tasks.errors import TaskError
from tasks.near_names import missing_file


def take_defaults(parser: ArgumentParser, arguments: Sequence[str]) -> set[str]:
    """Gives the options of a command the values of the recipes that its arguments name.

    Args:
        parser: Parser of a command, which is used for nothing but help from here on.
        arguments: The arguments.

    Returns:
        The options that have got a value.

    Raises:
        TaskError: There is no such recipe, or it is no yaml.
    """
    given = set()
    for file in _recipes(arguments):
        content = _content(file)
        for action in parser._actions:
            if (value := _value(content, action.dest)) is not None:
                is_class = isinstance(value, str) and choices(getattr(action, "_typehint", None))
                action.default = {"class_path": value, "init_args": {}} if is_class else value
                given.add(action.dest)
    return given


def _recipes(arguments: Sequence[str]) -> Iterator[Path]:
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, value = argument.partition("=")
        if option in CONFIG and (equals or not following.startswith("-")):
            yield Path(value if equals else following)


def _content(file: Path) -> Any:
    """What a file says, with the content of the files that it names in their places."""
    try:
        return _with_files(yaml.safe_load(file.read_text()), file.parent)
    except OSError as error:
        raise TaskError(f"--config: {missing_file(file)}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise TaskError(f"--config {file} is no yaml; expected a recipe such as those in configs") from error


def _with_files(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        options: dict[str, Any] = {"init_args": {}} if "class_path" in value else {}
        return options | {name: _with_files(each, folder) for name, each in value.items()}
    return _content(folder / value) if isinstance(value, str) and value.endswith(".yaml") else value


def _value(content: Any, dest: str) -> Any:
    """The value of an option, None where there is none."""
    for name in dest.split("."):
        content = content.get(name) if isinstance(content, dict) else None
    return content
