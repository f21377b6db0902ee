"""A user's mistake at any command: it ends in one line, "error: ..." on stderr, without its usage, and exit code 2."""

import re
import sys
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

MISTAKE = 2
"""The exit code (`tasks.run.exit_codes`)."""
LISTED = 12
"""Names that are listed where none is near."""
WORDS = {"int": "an integer", "float": "a number"}
"""What Python's types are called."""


def end_with(mistake: object) -> NoReturn:
    """Ends the command.

    Args:
        mistake: The error, or its line: the value, what was expected, and what to type instead.

    Raises:
        SystemExit: Always, with exit code 2.
    """
    print(f"error: {mistake}", file=sys.stderr)  # noqa: T201
    sys.exit(MISTAKE)


class CommandParser(ArgumentParser):
    """argparse's parser, which says in one line what is wrong. Its sub-commands have parsers of the same class."""

    arguments: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses arguments, and keeps them for what is said of them."""
        self.arguments = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def refuse_misspelt(self, more: Sequence[str]) -> None:
        """Ends the command where an option that is to be handed on is nearly one of its own.

        Args:
            more: Arguments that are not its own. Options with a dot belong to a group of another command.
        """
        own = [action.option_strings[-1] for action in self._actions if action.option_strings]
        for word in more:
            option = word.partition("=")[0]
            if option.startswith("--") and "." not in option and "did you mean" in near(option, own):
                end_with(f"{option} is no option{near(option, own)}")

    def error(self, message: str) -> NoReturn:
        """Ends the command.

        Args:
            message: What argparse would print below its usage.
        """
        commands = _commands(self)
        part = next((commands[word] for word in self.arguments if word in commands), self)
        end_with(explain(part, message))


def explain(parser: ArgumentParser, message: str) -> str:
    """What is wrong with the arguments of a command, in one line.

    Args:
        parser: The parser that refuses them.
        message: What argparse would print.
    """
    for pattern, said in RULES:
        if found := re.match(pattern, message, re.DOTALL):
            return said(parser, *found.groups())
    return " ".join(message.removeprefix("argument ").split())


def near(typed: str, known: Iterable[str], where: str = "--help") -> str:
    """What to write instead of a name.

    Args:
        typed: The name that is unknown.
        known: All names.
        where: What lists all of them.

    Returns:
        `; did you mean X or Y?`, or all names where none is near and they are few.
    """
    names = list(known)
    bare = {name.lstrip("-").lower().replace("_", "-"): name for name in names}
    word = typed.lstrip("-").lower().replace("_", "-")
    found = [name for name in bare if word and name.startswith(word)] or get_close_matches(word, bare, cutoff=0.7)
    if found:
        return f"; did you mean {either([bare[name] for name in found])}?"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= LISTED else f"; {where} lists all"


def _unknown(parser: ArgumentParser, typed: str) -> str:
    option = typed.partition("=")[0]
    if not option.startswith("-"):
        return f"{option!r} is one argument too many; expected {_example(parser)}"
    shown = [action for action in parser._actions if action.option_strings and action.help != SUPPRESS]
    return f"{option} is no option{near(option, [action.option_strings[-1] for action in shown])}"


def _missing(parser: ArgumentParser, names: str) -> str:
    commands = _commands(parser)
    if commands:
        return f"expected {either(list(commands))} first: {parser.prog} {next(iter(commands))}"
    words = either([name if name.startswith("-") else name.upper() for name in names.split(", ")], "and")
    return f"{words} not given: {_example(parser)}"


def _no_choice(parser: ArgumentParser, name: str, value: str) -> str:
    known = [str(choice) for choice in _action(parser, name).choices or ()]
    if not name.startswith("-"):
        return f"{value} is no command{near(value, known)}"
    return f"{name} is {value!r}, expected {either(known)}"


def _no_value(parser: ArgumentParser, name: str, count: str) -> str:
    values = _values(_action(parser, name))
    return f"{name} stands without a value; expected {values}" if "one" in count else f"{name} takes {values}"


def _wrong_value(_: ArgumentParser, name: str, kind: str, value: str) -> str:
    return f"{name} is {value!r}, expected {WORDS.get(kind, kind)}"


RULES: tuple[tuple[str, Callable[..., str]], ...] = (
    (r"unrecognized arguments: (\S+)", _unknown),
    (r"ambiguous option: ([^\s=]+)", _unknown),
    (r"the following arguments are required: (.+)", _missing),
    (r"argument (\S+): invalid choice: '(.*?)' \(", _no_choice),
    (r"argument (\S+): expected (.+) arguments?$", _no_value),
    (r"argument (\S+): invalid (.+) value: '(.*)'", _wrong_value),
    (r"argument (\S+): not allowed with argument (\S+)", lambda _, one, other: f"{one} and {other}: leave one out"),
    (
        r"argument (?:\S+/)?(\S+): ignored explicit argument (.*)",
        lambda _, name, value: f"{name} takes no value: {value}",
    ),
)
"""What argparse says, and what is said instead."""


def _commands(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    groups = parser._subparsers._group_actions if parser._subparsers else ()
    return {name: part for group in groups for name, part in (group.choices or {}).items()}  # type: ignore[attr-defined]


def _action(parser: ArgumentParser, name: str) -> Action:
    return next(action for action in parser._actions if name in (*action.option_strings, action.metavar, action.dest))


def _example(parser: ArgumentParser) -> str:
    """The command with all that it needs, as it is typed."""
    words = [parser.prog.replace(" [options]", "")]
    for action in parser._actions:
        if action.required:
            words += [*action.option_strings[-1:], _values(action)]
    return " ".join(words)


def _values(action: Action) -> str:
    if action.choices:
        return either([str(choice) for choice in action.choices])
    words = action.metavar or action.dest.upper()
    return " ".join(words) if isinstance(words, tuple) else words


def either(names: Sequence[str], conjunction: str = "or") -> str:
    """`a, b or c`."""
    return f" {conjunction} ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
