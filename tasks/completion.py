"""`--completion bash` and `--completion zsh`: the script with which a shell completes the options of a task.

A shell completes by the name of a program. That of `python -m tasks.detect` is `python`, so the script is for the
program `attndense-detect` that the installation brings, which is the same command.

jsonargparse (4.53) has such a script, too, and does not come to an end with it: it follows every class through every
option that takes a class, and a refinement can be made of refinements. Here options are followed two
classes deep.
"""

import typing
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from configs.parts import part_names
from tasks.choices import choices, first_sentence
from tasks.errors import TaskError
from tasks.option_types import Option, given_by_caller, options_of, options_within, type_parts
from tasks.recipe_parts import FOLDERS

SHELLS = ("bash", "zsh")
DEPTH = {"data": 2, "model": 2, "pictures": 1, "writer": 1}
"""Classes within classes whose options are completed, for each group: the reduction of the attention of a backbone."""


def asked_shell(arguments: Sequence[str]) -> str | None:
    """The shell for which a command line asks for completion, if it does."""
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option == "--completion":
            return value if equals else "".join(arguments[place + 1 : place + 2])
    return None


def completion_script(commands: Mapping[str, Any], task: str, shell: str) -> str:
    """The script, to be evaluated by the shell.

    Args:
        commands: The parsers of the commands, by name.
        task: `detect` or `segment`.
        shell: One of `SHELLS`.

    Raises:
        TaskError: It is for another shell or one command alone, or shtab is missing.
    """
    if shell not in SHELLS:
        raise TaskError(f"--completion is {shell!r}, expected {' or '.join(SHELLS)}")
    if find_spec("shtab") is None:
        raise TaskError("--completion needs the package shtab; install the extra: pip install 'attndense[completion]'")
    if len(commands) == 1:
        raise TaskError(f"--completion stands without a command: python -m tasks.{task} --completion {shell}")
    import shtab

    parser = ArgumentParser(prog=f"attndense-{task}")
    parser.add_argument("--version", action="store_true", help="versions")
    own = parser.add_subparsers(metavar="COMMAND")
    for name, command in commands.items():
        part = own.add_parser(name, help=first_sentence(command.description))
        config = part.add_argument("--config", help="a recipe or the configuration of a run")
        config.complete = shtab.FILE  # type: ignore[attr-defined]
        part.add_argument("--print_config", action="store_true", help="the configuration as it stands")
        known = dict.fromkeys(part._option_string_actions)
        for option in _reachable(options_of(command)):
            if f"--{option.name}" not in known:
                known[f"--{option.name}"] = None
                _add(part, option, shtab)
    script: str = shtab.complete(parser, shell)
    return script


def _add(parser: ArgumentParser, option: Option, shtab: Any) -> None:
    """Adds an option with its values, or a file for one."""
    values = list(dict.fromkeys(_values(option)))
    text = first_sentence(option.text) or SUPPRESS
    action = parser.add_argument(f"--{option.name}", choices=values or None, help=text.replace("%", "%%"))
    if Path in type_parts(option.hint) or option.name in ("ckpt_path", "data.root"):
        action.complete = shtab.FILE  # type: ignore[attr-defined]
    if choices(option.hint):
        parser.add_argument(f"--{option.name}.help", choices=values, help=f"what --{option.name} takes")


def _values(option: Option) -> Iterator[str]:
    """The values of an option that takes only some."""
    for part in type_parts(option.hint):
        if typing.get_origin(part) is typing.Literal:
            yield from map(str, typing.get_args(part))
        elif part is bool:
            yield from ("true", "false")
    yield from (choice.name for choice in choices(option.hint))
    yield from part_names(FOLDERS.get(f"--{option.name}", ""))


def _reachable(options: Sequence[Option], depth: int = 0) -> Iterator[Option]:
    """Options, and those of the classes that they can name."""
    for option in options:
        yield option
        if depth < DEPTH.get(option.name.partition(".")[0], 0):
            for choice in choices(option.hint):
                own = options_within(choice.build, option.name, given_by_caller(option.hint))
                yield from _reachable(own, depth + 1)
