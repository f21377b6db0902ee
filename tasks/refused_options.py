"""What the command line says about an option that it refuses: one line, with the nearest names.

jsonargparse (4.53) wraps what a class within a class refuses in one more text at every level, below 70 lines of usage.
It keeps the chain of causes, though: the innermost link says what is wrong, the links before it say where.
"""

import inspect
import re
from argparse import ArgumentError
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import Namespace
from jsonargparse._subcommands import find_parent_action
from lightning.pytorch.cli import LightningArgumentParser

from tasks.argument_order import COMMANDS
from tasks.base import VisionTask
from tasks.choices import choices
from tasks.config_kinds import owner_of, whose_config
from tasks.errors import TaskError
from tasks.near_names import instead, listed, missing_file
from tasks.option_types import given_by_caller
from tasks.other_names import COMMANDS as OTHER_COMMANDS
from tasks.other_names import other_name
from tasks.refused_place import Place
from tasks.refused_values import no_class, no_class_yet, no_value, unknown_class, wrong_class, wrong_value
from tasks.task_options import add_task_options


class OptionParser(LightningArgumentParser):
    """LightningCLI's parser, which ends in one line about what is wrong instead of its usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises what the command line prints.

        Args:
            message: What jsonargparse would print.
            ex: The error behind it.

        Raises:
            TaskError: The line.
            Refused: The same for the class around this one, where this parser belongs to a class.
        """
        if not self.exit_on_error:
            raise Refused(self, message) from ex
        raise TaskError(explain_refusal(self, message, ex)) from ex

    def add_lightning_class_args(self, lightning_class: Any, nested_key: str, *args: Any, **kwargs: Any) -> list[str]:
        """Adds the options of a class; those of a task stand in a class of their own."""
        if isinstance(lightning_class, type) and issubclass(lightning_class, VisionTask):
            return add_task_options(self, lightning_class.options_class, nested_key)
        return super().add_lightning_class_args(lightning_class, nested_key, *args, **kwargs)

    def parse_args(self, args: Any = None, *arguments: Any, **options: Any) -> Any:
        """Parses arguments; jsonargparse hands null on to the parser of a class as the word None."""
        if not self.exit_on_error and args is not None:
            args = [re.sub("=None$", "=null", argument) for argument in args]
        return super().parse_args(args, *arguments, **options)

    def parse_object(self, cfg_obj: Any, *arguments: Any, **options: Any) -> Any:
        """Parses options of a class; jsonargparse drops one that is unknown and empty without a word."""
        known = {action.dest.partition(".")[0] for action in self._actions}
        for name, value in vars(cfg_obj).items() if isinstance(cfg_obj, Namespace) else cfg_obj.items():
            if name not in known and isinstance(value, Namespace | dict) and not value:
                self.error(f"Option '{name}' is not accepted")
        return super().parse_object(cfg_obj, *arguments, **options)

    def parse_path(self, path: Any, *arguments: Any, **options: Any) -> Any:
        """Parses a configuration file; what it refuses is said with the file's name."""
        try:
            found = super().parse_path(path, *arguments, **options)
        except TaskError as error:
            raise TaskError(f"{path}: {error}") from error
        except UnicodeDecodeError as error:
            raise TaskError(f"{path} is no text; --config expects a yaml file such as those in configs") from error
        for name in self.groups:
            if not isinstance(found.get(name, {}), Namespace | dict):
                raise TaskError(f"{path}: {name} is {found[name]}, expected options such as `{name}: {{NAME: VALUE}}`")
        return found


class Refused(ArgumentError):
    """Options of a class within a class are refused."""

    def __init__(self, parser: OptionParser, message: str) -> None:
        super().__init__(None, message)
        self.parser = parser


def explain_refusal(parser: OptionParser, message: str, error: BaseException | None) -> str:
    """One line about a refused option: where it stands, what was expected, and the nearest names.

    Args:
        parser: Parser of the command.
        message: What jsonargparse would print.
        error: The error behind it.

    Returns:
        The line, without "error: ".
    """
    place = Place(parser, message, arguments=list(getattr(parser, "args", None) or ()))
    for link in _chain(error):
        if isinstance(link, TaskError):  # a file's own line, handed on
            return str(link)
        place.text = text = str(link)
        if isinstance(link, Refused):
            place.parser = link.parser
        elif type(link) is TypeError and (key := re.match(r'Parser key "([^"]+)"', text)):
            outer = place.keys[-1:] if key[1].startswith(f"{place.keys[-1] if place.keys else ''}.") else []
            place.keys[len(place.keys) - len(outer) :] = [key[1]]
        elif helped := re.match(r"--(\S+)\.help: ", text):
            place.keys.append(helped[1])
        elif owner := re.search(r"class_path[ =]'([^']+)'", text):
            place.owner = owner[1]
    for text in (message, place.text):
        for pattern, explain in RULES:
            if found := re.search(pattern, text):
                return _one_line(explain(place, found))
    return _one_line(f"{place.option()}: {place.text}" if place.keys else place.text.removeprefix("argument "))


def _unknown_option(place: Place, found: re.Match[str]) -> str:
    typed = found[1]
    if place.text.startswith("unrecognized") and not typed.startswith("-"):
        return _alone(typed)
    option = typed if re.match("-[^-]", typed) else place.option(typed.lstrip("-"))
    if (commands := place.parser._subcommands_action) is not None:
        place.parser = next(iter(commands.choices.values()))
        if place.text.startswith("unrecognized") and find_parent_action(place.parser, typed.lstrip("-")):
            return f"{option} belongs behind the command: fit {option}"
    known = [place.option(dest) for dest in _destinations(place.parser, nested=not place.owner)]
    if option in known and (line := place.one_word(option)):
        return line
    of_command = [name.lstrip("-") for name in known]
    if not place.owner:
        if line := whose_config(place.arguments, of_command):
            return line
        if option.startswith("--model.windows") and "model.windows" not in of_command:
            return (
                f"{option} is for detectors; for windows in tasks.segment: --model.segmentor.inference SlideInference"
            )
        if owner := owner_of(option, of_command):
            return f"{option} is an option of {owner}: python -m {owner} fit {option}"
    owner = f" of {place.owner}" if place.owner else ""
    other = other_name(option)
    near = f"; here it is {other}" if other else instead(option, known)
    return f"{option} is no option{owner}{near}"


def _alone(word: str) -> str:
    if word.endswith((".yaml", ".yml")):
        return f"{word!r} stands alone; a configuration is given as --config {word}"
    name = word.lstrip("+~\N{EN DASH}\N{EM DASH}")  # Hydra's, and a text editor's
    if name != word or ("." in word and "/" not in word):
        return f"{word!r} stands alone; an option begins with two dashes: --{name}"
    return f"{word!r} stands alone; an option is written --NAME VALUE or --NAME=VALUE, and a list without spaces: [3,4]"


def _missing_options(place: Place, found: re.Match[str]) -> str:
    names = [place.option(name) for name in found[1].split(", ")]
    if place.owner:
        return f"{place.owner} needs {listed(names, 'and')}"
    return (
        place.missing_checkpoint()
        or f"{listed(names, 'and')} not given; a recipe gives them: --config {place.recipe()}"
    )


def _linked(_: Place, found: re.Match[str]) -> str:
    return f"--{found[1]} comes from the data; give --{found[2]}"


def _no_group(_: Place, found: re.Match[str]) -> str:
    off = "; to switch it off: --wandb.mode disabled" if found[1] == "wandb" else ""
    return f"--{found[1]} {found[2]} is no file of options; --{found[1]}.help lists its options{off}"


def _no_file(_: Place, found: re.Match[str]) -> str:
    folder = Path(found[1])
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    inside = next(iter(sorted(folder.glob("quickstart.yaml")) or sorted(folder.glob("*.yaml"))), None)
    example = f", such as {shown / inside.name}" if inside else ""
    return f"--config {shown} is a folder; expected a file{example}"


def _unknown_command(_: Place, found: re.Match[str]) -> str:
    meant = OTHER_COMMANDS.get(found[1])
    return f"{found[1]} is no command{f'; here it is {meant}' if meant else instead(found[1], list(COMMANDS))}"


def _no_command(_: Place, __: re.Match[str]) -> str:
    return f"expected a command first, {listed(COMMANDS)}: fit --config configs/.../NAME.yaml"


def _no_config(_: Place, found: re.Match[str]) -> str:
    return f"--config: {missing_file(Path(found[1]))}"


def _no_mapping(_: Place, found: re.Match[str]) -> str:
    return f"expected options such as `trainer: {{max_epochs: 12}}`, found {found[1][:60]!r}"


def _no_yaml(_: Place, found: re.Match[str]) -> str:
    return "no valid yaml: " + re.sub(r' *in "<\w+ string>",', " at", found[1])


RULES: tuple[tuple[str, Callable[[Place, re.Match[str]], str]], ...] = (
    (r"^unrecognized arguments: ([^\s=]+)", _unknown_option),
    (r"argument subcommand: invalid choice: '([^']*)'", _unknown_command),
    (r"^expected \"subcommand\" to be one of", _no_command),
    (r"^Parser key \"config\": File does not exist: '(.+)'", _no_config),
    (r"^Parser key \"config\": Path is not a file: '(.+)'", _no_file),
    (r"^(?:argument )?(\S+): expected one argument", no_value),
    (r"^Parser key \"([\w.]+)\": Unable to load config \"(.*)\"", _no_group),
    (r"^Unexpected config: *([^\n]*)", _no_mapping),
    (r"(?s)^Problems parsing config: (.*)", _no_yaml),
    (r"(?:^Option|does not accept option) '([^']+)'", _unknown_option),
    (r"^the following arguments are required: (.+)", _missing_options),
    (r"^(?:Expected a dot import path string|Unexpected import path format): (.+)", unknown_class),
    (r"^(?:module '[^']+' has no attribute|No module named) ()", unknown_class),
    (r"^Expected an instantiatable class, but \S+ is abstract", no_class_yet),
    (r"^Import path (\S+) does not correspond to a subclass of (\S+)", wrong_class),
    (
        r"^Expected '(\S+)' to be (?:a subclass of|a function that returns) (?:<class ')?([\w.]+?)(?:'>)?\.?$",
        wrong_class,
    ),
    (r"^Expected an import path or a subclass spec, but got (.*)", no_class),
    (r"^Not a valid subclass of \S+ Got value: (\S+)", no_class),
    (r"^Linked \"(\S+)\" must be given via \"(\S+)\"", _linked),
    (r"(?s)^Expected an? .*Got value: (.*)", wrong_value),
)
"""What jsonargparse says, and what is said instead."""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, the innermost last."""
    while error is not None:
        yield error
        error = error.__cause__


def _destinations(parser: OptionParser, nested: bool) -> Iterator[str]:
    """Options of a parser; nested: also those of the classes that its options can name."""
    for action in parser._actions:
        if action.option_strings and not action.dest.endswith(("help", "print_shtab")):
            yield action.dest
            hint = getattr(action, "_typehint", None)
            for choice in choices(hint) if nested else ():
                names = list(inspect.signature(choice.build).parameters)[given_by_caller(hint) :]
                yield from (f"{action.dest}.{name}" for name in names)


def _one_line(text: str) -> str:
    return " ".join(text.split())
