"""What the command lines of the tasks show for `--help`, `--help all`, `--OPTION.help` and `--OPTION.help CLASS`.

Everything that is shown can be typed as it stands. The texts are those of the docstrings.
"""

import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from configs.parts import part_file, part_names
from tasks.choices import choices, first_sentence
from tasks.errors import TaskError
from tasks.help_defaults import take_defaults
from tasks.near_names import instead, listed
from tasks.option_types import (
    Option,
    find_option,
    given_by_caller,
    named_choice,
    options_of,
    options_within,
    takes_null,
    type_words,
)
from tasks.recipe_parts import FOLDERS

WIDTH = 100
"""Columns of a page."""
COMMON = (
    "name",
    "data.root",
    "data.batch_size",
    "data.num_workers",
    "data.images",
    "model.backbone",
    "model.backbone.attention",
    "model.detector",
    "model.segmentor",
    "model.optimizer",
    "model.optimizer.lr",
    "model.lr_schedule",
    "model.weights",
    "host.start",
    "host.weights",
    "trainer.max_epochs",
    "trainer.devices",
    "trainer.precision",
    "trainer.accumulate_grad_batches",
    "trainer.callbacks",
    "trainer.logger",
    "wandb.mode",
    "resume",
    "ckpt_path",
    "writer",
)
"""Options that the first page of a command shows, those that it has."""
TRAINS_ONLY = (
    "model.optimizer",
    "model.optimizer.lr",
    "model.lr_schedule",
    "host.start",
    "host.weights",
    "resume",
    "trainer.max_epochs",
    "trainer.accumulate_grad_batches",
    "trainer.callbacks",
    "wandb.mode",
)
PREDICTS_ONLY = ("data.images", "writer")
EXAMPLES = ("EarlyStopping", "CSVLogger")
"""Classes that stand as examples where an option names none by itself."""
COMMANDS = {
    "fit": "Trains a model, and goes on where a run has stopped.",
    "validate": "Scores a model on the validation images.",
    "test": "Scores a model on the test images.",
    "predict": "Finds what is in images, and draws it.",
}
"""What the commands do; Lightning tells it of its own methods."""


def asked_help(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for help."""
    return any(re.match(r"(-h|--help)$|--help=|--[\w.]+\.help(=|$)", argument) for argument in arguments)


def help_page(parser: ArgumentParser, module: str, arguments: Sequence[str], named: Mapping[str, Any]) -> str:
    """The page that a command line asks for.

    Args:
        parser: The command line's parser, with a parser for each command.
        module: Module that is run: `tasks.detect`.
        arguments: The arguments, a request for help among them.
        named: Classes that options name by themselves: `{"data": COCO}`.

    Raises:
        TaskError: There is no such command, option or class.
    """
    commands: Mapping[str, ArgumentParser] = parser._subcommands_action.choices
    command = next((argument for argument in arguments if argument in commands), None)
    place = next(place for place in range(len(arguments)) if asked_help(arguments[place : place + 1]))
    option, equals, value = arguments[place].partition("=")
    following = arguments[place + 1] if place + 1 < len(arguments) else ""
    if not equals and not following.startswith("-") and following not in commands:
        value = following
    own = commands[command or "fit"]
    given = take_defaults(own, arguments)
    named = {name: build for name, build in named.items() if name == "data" or name not in given}
    if option not in ("-h", "--help"):
        return option_page(own, option.removeprefix("--").removesuffix(".help"), value, _named(own, arguments, named))
    if value not in ("", "all"):
        raise TaskError(f"--help {value}: expected nothing or `all`; options of a group: --{value}.help")
    if value:
        return all_page(own)
    return command_page(own, module, command, named) if command else commands_page(commands, module)


def commands_page(commands: Mapping[str, ArgumentParser], module: str) -> str:
    """The commands of a task."""
    task, recipes = module.rpartition(".")[2], f"configs/{module.rpartition('.')[2]}"
    rows = [(name, COMMANDS[name]) for name in commands]
    command = f"python -m {module}"
    return "\n".join(
        [
            f"{command} COMMAND --config FILE [OPTIONS]",
            "",
            *_table(rows),
            "",
            f"  {command} fit --config {recipes}/quickstart.yaml",
            f"  {command} validate --config runs/{task}/quickstart/config.fit.yaml --ckpt_path best",
            "",
            "--help behind a command shows its options. --version shows versions, --completion bash or zsh the",
            "script that completes options in a shell. python -m tasks shows all that can be chosen.",
        ]
    )


def command_page(parser: ArgumentParser, module: str, command: str, named: Mapping[str, Any]) -> str:
    """The common options of a command, in one screen."""
    left_out = {"fit": PREDICTS_ONLY, "predict": TRAINS_ONLY}.get(command, (*PREDICTS_ONLY, *TRAINS_ONLY))
    found = [find_option(parser, name, named) for name in COMMON if name not in left_out]
    rows = [
        ("--config FILE", "A recipe such as those in configs, or config.fit.yaml of a run; may be given several times.")
    ]
    rows += [(f"--{option.name} {_value(option)}", first_sentence(option.text)) for option in found if option]
    return "\n".join(
        [
            f"python -m {module} {command} --config FILE [OPTIONS]",
            "",
            COMMANDS[command],
            "",
            *_table(rows),
            "",
            "Options win over the files of --config. Nothing is written null. --help all lists every option,",
            "--OPTION.help what it takes (--model.backbone.help), --OPTION.help CLASS the options of a class",
            "(--model.backbone.attention.help CBAM), and --print_config the configuration as it stands.",
        ]
    )


def all_page(parser: ArgumentParser) -> str:
    """Every option of a command that belongs to no class, by groups."""
    options = options_of(parser)
    groups = dict.fromkeys(option.name.partition(".")[0] if "." in option.name else "" for option in options)
    lines = []
    for group in sorted(groups):
        own = [option for option in options if (option.name.partition(".")[0] if "." in option.name else "") == group]
        lines += [f"{group or 'run'}:", *_described(own), ""]
    return "\n".join([*lines, "Options of a class: --OPTION.help CLASS, such as --data.help COCO."])


def option_page(parser: ArgumentParser, name: str, value: str, named: Mapping[str, Any]) -> str:
    """What an option, or a group of options, takes.

    Args:
        parser: Parser of a command.
        name: The option, `model.backbone.attention`, or the group, `trainer`.
        value: Class whose options are wanted; empty for the list of what can be chosen.
        named: Classes that are named for options.

    Raises:
        TaskError: There is no such option, or no such class for it.
    """
    option = find_option(parser, name, named)
    if option is None:
        group = [each for each in options_of(parser) if each.name.startswith(f"{name}.")]
        if not group:
            known = [f"--{each.name}" for each in options_of(parser)]
            raise TaskError(f"--{name} is no option{instead(f'--{name}', known)}")
        return "\n".join(_described(group))
    if not choices(option.hint):
        return "\n".join(_described([option]))
    return _class_page(option, value) if value else _list_page(option, named.get(name))


def _list_page(option: Option, usual: Any) -> str:
    """What can be chosen for an option, a line each; of data sets only those that give what the task learns."""
    found = choices(option.hint)
    if option.name == "data":
        found = [choice for choice in found if _is_kin(choice.build, usual)]
    example = next((choice for choice in found if choice.name in (option.shown_default, *EXAMPLES)), found[0])
    null = " or null for none" if takes_null(option.hint) else ""
    lines = [f"--{option.name} takes one of these{null}; --{option.name}.help {example.name} explains one:", ""]
    lines += _table([(choice.name, choice.summary) for choice in found])
    if names := part_names(FOLDERS.get(f"--{option.name}", "")):
        lines += ["", f"or a file of configs/{FOLDERS[f'--{option.name}']}:", ""]
        lines += textwrap.wrap(", ".join(names), WIDTH, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(lines)


def _is_kin(one: Any, other: Any) -> bool:
    return issubclass(one, other) or issubclass(other, one)


def _class_page(option: Option, name: str) -> str:
    """The options of one choice."""
    head = []
    file = part_file(FOLDERS.get(f"--{option.name}", ""), name)
    if file is not None:
        content = yaml.safe_load(file.read_text())
        place = f"configs/{FOLDERS[f'--{option.name}']}/{name}.yaml"
        head = [f"{name} is a file of options for {content['class_path']}: {place}", ""]
        name = content["class_path"]
    choice = named_choice(option.hint, name)
    build = _imported(name) if choice is None else choice.build
    if build is None:
        known = [each.name for each in choices(option.hint)]
        raise TaskError(f"--{option.name} {name} cannot be found{instead(name, known)}")
    skipped = given_by_caller(option.hint)
    title = f"{build.__module__}.{build.__qualname__}" if choice is None else choice.name
    about = inspect.cleandoc(build.__doc__ or "").split("\n\n")
    about = about[: next((place for place, part in enumerate(about) if re.match(r"[A-Z]\w+:\n", part)), len(about))]
    described = _described(options_within(build, option.name, skipped)) or ["  (it has no options)"]
    return "\n".join([*head, f"--{option.name} {title}", "", "\n\n".join(about), "", *described])


def _imported(path: str) -> Any:
    """The class of an import path outside this package; None where there is none."""
    from jsonargparse._util import import_object

    try:
        return import_object(path)
    except (ImportError, AttributeError, ValueError):
        return None


def _described(options: Iterable[Option]) -> list[str]:
    """Options with default, type and text."""
    lines: list[str] = []
    for option in options:
        name = option.name.removeprefix("fit.")
        kind = f"{listed(list(dict.fromkeys(type_words(option.hint))))}" if option.hint is not None else ""
        if choices(option.hint):
            kind = f"a class: --{name}.help lists them" + (", null for none" if takes_null(option.hint) else "")
        lines.append(f"  --{name} {option.shown_default}")
        text = f"{option.text} ({kind})" if kind else option.text
        lines += textwrap.wrap(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return lines


def _value(option: Option) -> str:
    """A default that is short enough for a table."""
    shown = option.shown_default
    return shown if len(shown) < 16 else "..."


def _table(rows: Sequence[tuple[str, str]], lines: int = 2) -> list[str]:
    """Two columns; a text is cut where it needs more lines."""
    column = min(max((len(name) for name, _ in rows), default=0), 40) + 4
    table = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, WIDTH - column, max_lines=lines, placeholder=" ...") or [""]
        table += [f"  {name:<{column - 2}}{wrapped[0]}".rstrip(), *(" " * column + line for line in wrapped[1:])]
    return table


def _named(parser: ArgumentParser, arguments: Sequence[str], named: Mapping[str, Any]) -> dict[str, Any]:
    """Classes that the arguments name for options, in place of those that are named by themselves."""
    found = dict(named)
    for place, argument in enumerate(arguments):
        option, equals, value = argument.removeprefix("--").partition("=")
        value = value if equals else (arguments[place + 1] if place + 1 < len(arguments) else "")
        owner = (
            find_option(parser, option, found) if argument.startswith("--") and not option.endswith("help") else None
        )
        if owner is not None and (choice := named_choice(owner.hint, value)):
            found[option] = choice.build
    return found
