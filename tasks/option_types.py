"""Where a dotted option leads: its type, its default and what it is for, through the classes that options can name."""

import inspect
import re
import typing
from argparse import SUPPRESS, Action
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse._parameter_resolvers import get_signature_parameters
from jsonargparse._typehints import get_class_types

from tasks.choices import Choice, choices


@dataclass(frozen=True)
class Option:
    """An option of the command line.

    Attributes:
        name: With dots, without dashes: `data.batch_size`.
        hint: Its type; None where it has none.
        text: What it is for, in one line.
        default: Its default; `inspect.Parameter.empty` where it must be given.
    """

    name: str
    hint: Any
    text: str
    default: Any

    @property
    def shown_default(self) -> str:
        """The default as it is typed; `...` where there is none, or it is made by a function."""
        value = self.default
        if value is inspect.Parameter.empty:
            return "..."
        if isinstance(value, Mapping | Namespace):
            return str(value["class_path"]).rpartition(".")[2] if "class_path" in value else "..."
        if value is None or isinstance(value, bool):
            return {None: "null", True: "true", False: "false"}[value]
        if isinstance(value, list | tuple):
            return f"[{','.join(map(str, value))}]"
        return str(value) if isinstance(value, str | int | float | Path) else "..."


def options_of(parser: ArgumentParser) -> list[Option]:
    """The options of a parser, those that only show help or read a file left out."""
    return [option_of(action) for action in parser._actions if _is_option(action)]


def option_of(action: Action) -> Option:
    """An option of a parser."""
    is_given = action.default is not None or not action.required
    text = " ".join((action.help or "").split()) if action.help != SUPPRESS else ""
    text = re.sub(r"``", "`", text)
    default = action.default if is_given and action.default != SUPPRESS else inspect.Parameter.empty
    return Option(action.dest, getattr(action, "_typehint", action.type), text, default)


def find_option(parser: ArgumentParser, name: str, named: Mapping[str, Any]) -> Option | None:
    """The option of a name, also where it is one of a class that another option names.

    Args:
        parser: Parser of a command.
        name: `data.pipeline.height`.
        named: Classes that are named for options, or would be: `{"data": COCO}`. Elsewhere the first class that has the
            option is meant.

    Returns:
        The option; None if there is none of this name.
    """
    actions = {action.dest: action for action in parser._actions if _is_option(action)}
    parts = re.sub(r"\.(init_args|dict_kwargs)\b", "", name).split(".")
    for end in range(len(parts), 0, -1):
        if action := actions.get(".".join(parts[:end])):
            found: Option | None = option_of(action)
            for place in range(end, len(parts)):
                prefix = ".".join(parts[:place])
                found = found and _option_within(found, prefix, parts[place], named.get(prefix))
            return found
    return None


def options_within(build: Any, prefix: str, skipped: int = 0) -> list[Option]:
    """The options of a class or function.

    Args:
        build: The class or function.
        prefix: Name of the option that names it.
        skipped: Number of its first parameters that the caller gives.
    """
    parameters = _parameters(build)
    return [
        Option(f"{prefix}.{parameter.name}", parameter.annotation, " ".join((parameter.doc or "").split()), default)
        for parameter in parameters[skipped:]
        for default in [parameter.default]
        if parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    ]


def given_by_caller(hint: Any) -> int:
    """How many of the first parameters of a class are given by the code: the channels of `Callable[[int], Refine]`."""
    for part in type_parts(hint):
        arguments = typing.get_args(part)
        if arguments and isinstance(arguments[0], list):
            return len(arguments[0])
    return 0


def takes_null(hint: Any) -> bool:
    """Whether a type allows null."""
    return NoneType in type_parts(hint)


def takes_list(hint: Any) -> bool:
    """Whether a type allows a list."""
    return any(typing.get_origin(part) in (tuple, list) for part in type_parts(hint))


def type_parts(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return tuple(part for each in typing.get_args(hint) for part in type_parts(each))
    return (hint,)


def type_words(hint: Any) -> Iterator[str]:
    """What a type allows, in a user's words: an integer, null."""
    words = {int: "an integer", float: "a number", str: "text", bool: "true or false", NoneType: "null", Path: "a path"}
    if typing.get_origin(hint) is Literal:
        yield from map(str, typing.get_args(hint))
    elif typing.get_origin(hint) in (typing.Union, UnionType):
        for part in typing.get_args(hint):
            yield from type_words(part)
    else:
        yield (
            words.get(hint)
            or _list_words(hint)
            or re.sub(r"\b(\w+\.)+", "", hint.__name__ if inspect.isclass(hint) else str(hint))
        )


def _list_words(hint: Any) -> str | None:
    """A list or a mapping, with an example."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin not in (tuple, list, dict):
        return None
    if origin is dict:
        return "a mapping such as {NAME: VALUE}"
    example = {int: "3,4", float: "0.5,2.0"}.get(parts[0])
    return f"a list such as [{example}]" if example else "a list such as [A,B]"


def named_choice(hint: Any, name: str) -> Choice | None:
    """The class or function of a type that a user means by a name, short or in full."""
    found = {choice.name: choice for choice in choices(hint)}
    short = {choice.name.rpartition(".")[2]: choice for choice in found.values()}
    return found.get(name) or short.get(name.rpartition(".")[2])


@cache
def _parameters(build: Any) -> list[Any]:
    """The parameters of a class or function with their descriptions, read from its source."""
    return list(get_signature_parameters(build, None))


def _option_within(owner: Option, prefix: str, name: str, named: Any) -> Option | None:
    """An option of the class that is named, that is the default, or of the first that has it."""
    found = choices(owner.hint)
    usual = [choice.build for choice in found if choice.name == owner.shown_default]
    for build in [
        *([named] if named else []),
        *usual,
        *(choice.build for choice in found),
        *get_class_types(owner.hint),
    ]:
        for option in options_within(build, prefix):
            if option.name == f"{prefix}.{name}":
                is_usual = build in usual and isinstance(owner.default, Mapping) and name in owner.default["init_args"]
                return replace(option, default=owner.default["init_args"][name]) if is_usual else option
    return None


def _is_option(action: Action) -> bool:
    hidden = action.dest in ("help", "config", "print_config") or action.dest.endswith((".help", "print_shtab"))
    return bool(action.option_strings) and not hidden and type(action).__name__ != "_ActionConfigLoad"
