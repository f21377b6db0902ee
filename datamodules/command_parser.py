"""The parser of the commands of this package: jsonargparse's, which says in one line what is wrong.

jsonargparse (4.53) wraps what a class refuses in one more text at every level, below its usage. It keeps the chain of
causes, though: the innermost link says what is wrong, the links before it say where.
"""

import re
import sys
from argparse import ArgumentError
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser
from jsonargparse._subcommands import find_action
from jsonargparse._typehints import get_all_subclass_paths

from configs.mistakes import either, explain, near
from datamodules.errors import DataError

KINDS = {
    "<class 'int'>": "an integer",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "PositiveInt": "an integer from 1 on",
    "NonNegativeInt": "an integer from 0 on",
}
"""What types are called."""


class OneLineParser(ArgumentParser):
    """jsonargparse's parser, which ends in one line about what is wrong instead of its usage."""

    def __init__(self, *args: Any, **options: Any) -> None:
        module = getattr(sys.modules["__main__"], "__spec__", None)
        if module is not None:  # the parser that shows the options of a class is made without a name
            options.setdefault("prog", f"python -m {module.name.removesuffix('.__main__')}")
        super().__init__(*args, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises what the command prints.

        Args:
            message: What jsonargparse would print.
            ex: The error behind it.

        Raises:
            DataError: The line.
            Refused: The same for the class around this one, where this parser belongs to a class.
        """
        if not self.exit_on_error:
            raise Refused(self, message) from ex
        raise DataError(_one_line(self, message, ex)) from ex

    def parse_path(self, path: Any, *arguments: Any, **options: Any) -> Any:
        """Parses a file of options; what it refuses is said with the file's name."""
        try:
            return super().parse_path(path, *arguments, **options)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"--config {path} is no text; expected a yaml file of options") from error


class Refused(ArgumentError):
    """Options of a class within a class are refused."""

    def __init__(self, parser: OneLineParser, message: str) -> None:
        super().__init__(None, message)
        self.parser = parser


@dataclass
class Place:
    """Where an option was refused.

    Attributes:
        parser: Parser of the class that refused it, or of the command.
        text: What the innermost error says.
        keys: Options that lead there: `["data", "pipeline"]`.
        owner: Import path of the class; empty for the command itself.
    """

    parser: OneLineParser
    text: str
    keys: list[str] = field(default_factory=list)
    owner: str = ""

    def option(self, *name: str) -> str:
        """The option as a user writes it: `--data.pipeline`."""
        return "--" + ".".join([*self.keys, *name])

    @property
    def short_owner(self) -> str:
        """The class without its module."""
        return self.owner.rpartition(".")[2]

    def classes(self, key: str) -> list[str]:
        """The classes that an option takes, by their short names."""
        hint = getattr(find_action(self.parser, key), "_typehint", None)
        return [path.rpartition(".")[2] for path in get_all_subclass_paths(hint)]


def _one_line(parser: OneLineParser, message: str, error: BaseException | None) -> str:
    """One line about a refused option: where it stands, what was expected, and the nearest names."""
    place = Place(getattr(error, "subcommand_parser", None) or parser, message)
    while error is not None:
        if isinstance(error, DataError):  # a file's own line, handed on
            return str(error)
        place.text = text = " ".join(str(error).split())
        if isinstance(error, Refused):
            place.parser = error.parser
        elif type(error) is TypeError and (key := re.match(r'Parser key "([^"]+)"', text)):
            place.keys.append(key[1])
        elif helped := re.match(r"--(\S+)\.help: (.*)", text):
            place.keys, place.text = [helped[1]], helped[2]
        elif owner := re.match(r"Problem with given class_path '([^']+)'", text):
            place.owner = owner[1]
        elif text.startswith("Not of type"):
            break  # the type's name, which the next link leaves out
        error = error.__cause__
    for pattern, said in RULES:
        if found := re.match(pattern, place.text):
            return said(place, *found.groups())
    return explain(place.parser, place.text) if not place.keys else f"{place.option()}: {place.text}"


def _unknown(place: Place, name: str) -> str:
    known = [place.option(option.dest) for option in place.parser._actions if not option.dest.endswith("help")]
    where = f"{place.option('help')} {place.short_owner}"
    return f"{place.option(name)} is no option of {place.short_owner}{near(place.option(name), known, where)}"


def _missing(place: Place, names: str) -> str:
    missing = [name.rpartition(".")[2] for name in names.split(", ")]
    if place.owner:
        return f"{place.option()} {place.short_owner} needs {either([place.option(name) for name in missing], 'and')}"
    words = [f"--{name} {'|'.join(place.classes(name)) or name.upper()}" for name in missing]
    command = " ".join([place.parser.prog, *names.split(",")[0].split(".")[:-1]])
    return f"{either([f'--{name}' for name in missing], 'and')} not given: {command} {' '.join(words)}"


def _no_command(_: Place, typed: str, known: str) -> str:
    names = re.findall(r"[^', ]+", known)
    return f"{typed} is no command{near(typed, names)}"


def _no_class_yet(place: Place) -> str:
    return f"{place.option()} needs its class before the options of the class: {either(place.classes(place.keys[-1]))}"


def _no_class(place: Place, *_: str) -> str:
    typed = place.text.rpartition(" ")[2] if place.text.startswith("Expected") else place.owner
    return f"{place.option()} {typed} cannot be found{near(typed, place.classes(place.keys[-1]))}"


def _no_value(place: Place, option: str) -> str:
    """Jsonargparse names `--data` for every option of its class."""
    words = list(getattr(place.parser, "args", None) or ())
    alone = [
        word
        for word, after in zip(words, [*words[1:], "--"], strict=True)
        if word.startswith(option) and after.startswith("--") and "=" not in word
    ]
    typed = alone[0] if alone else option
    return _help_of_a_class(place, option, typed) if typed.endswith(".help") else f"{typed} stands without a value"


def _help_of_a_class(place: Place, option: str, typed: str) -> str:
    return f"{typed} is asked of a class: {option}.help {place.classes(option.lstrip('-'))[-1]} {typed} CLASS"


def _wrong_value(place: Place, kind: str, value: str) -> str:
    literal = re.match(r"typing\.Literal\[(.*)\]", kind)
    words = either(re.findall(r"'([^']*)'", literal[1])) if literal else KINDS.get(kind, kind)
    return f"{place.option()} is {value!r}, expected {words}"


RULES: tuple[tuple[str, Callable[..., str]], ...] = (
    (r"Option '([^']+)' is not accepted", _unknown),
    (r"the following arguments are required: (.+)", _missing),
    (r"Expected an instantiatable class, but \S+ is abstract", _no_class_yet),
    (r"Expected a dot import path string|No module named|module '\S+' has no attribute", _no_class),
    (r"Expected an? (.+)\. Got value: (.*)", _wrong_value),
    (
        r"Not of type (\w+): (?:invalid literal for int\(\) with base 10: ')?(.*?)(?: does not conform.*|')$",
        _wrong_value,
    ),
    (r"File does not exist: '(.+)'", lambda place, file: f"{place.option()}: no file {Path(file).name}"),
    (r"Problems parsing config: (.*)", lambda _, why: f"no valid yaml: {why}"),
    (r"expected \"subcommand\" to be one of \{(.+)\}", lambda _, names: f"expected {either(names.split(','))} first"),
    (r"argument subcommand: invalid choice: '(.*)' \(choose from (.*)\)", _no_command),
    (r"argument (--\S+): expected one argument", _no_value),
    (
        r"Not a valid subclass.*NestedArg\(key='(.+\.help)'",
        lambda place, key: _help_of_a_class(place, place.option(), place.option(key)),
    ),
    (r"'utf-8' codec can't decode", lambda place: f"{place.option()}: the file is no text; expected yaml"),
)
"""What jsonargparse says, and what is said instead."""
