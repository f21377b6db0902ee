"""What can be chosen for an option that names a class: classes and functions that build one, with a line about each."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from jsonargparse._typehints import get_all_subclass_paths, get_class_types
from torch import Tensor


@dataclass(frozen=True)
class Choice:
    """One of the classes or functions that an option can name.

    Attributes:
        name: As it is typed: `CBAM`, `backbones.resnet50`.
        build: The class or function.
    """

    name: str
    build: Callable[..., Any]

    @property
    def summary(self) -> str:
        """First sentence of its docstring."""
        return first_sentence(self.build.__doc__)


def choices(hint: Any) -> list[Choice]:
    """What can be named for a type: its classes by their short names, functions that build one by their import path.

    Args:
        hint: Type of an option, such as `Callable[[int], Refine] | None`.

    Returns:
        Classes in the order of their packages, then functions; nothing for a type that names no class. A tensor
        is a number.
    """
    classes = {path: _imported(path) for path in get_all_subclass_paths(hint)}
    # What a program makes while it runs, such as Lightning's wrappers of optimisers, is in no module.
    paths = [path for path, value in classes.items() if _is_choice(value)]
    bases = get_class_types(hint) or ()
    paths = [path for path in paths if classes[path] not in bases] or paths  # what its subclasses share
    found = [Choice(path.rpartition(".")[2], classes[path]) for path in paths]
    for module in dict.fromkeys(path.rpartition(".")[0] for path in paths if path.count(".") == 1):
        for name, value in inspect.getmembers(import_module(module), inspect.isfunction):
            built = value.__annotations__.get("return")
            if inspect.isclass(built) and issubclass(built, get_class_types(hint)) and not _is_open(value):
                found.append(Choice(f"{module}.{name}", value))
    return found


def first_sentence(docstring: str | None) -> str:
    """The first sentence of a docstring, in one line."""
    paragraph = inspect.cleandoc(docstring or "").partition("\n\n")[0]
    line = " ".join(paragraph.split()).replace("``", "`")
    return re.split(r"(?<=[^.][.])\s+(?=[A-Z`(])", line)[0]


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name, None)


def _is_choice(value: object) -> bool:
    """Whether it is a class that a user can name: no number, no base of others, and none of a library's own use."""
    if not inspect.isclass(value) or issubclass(value, Tensor) or inspect.isabstract(value):
        return False
    return not re.match(r"((Abstract )?base (of|class)|Dummy) ", value.__doc__ or "", re.IGNORECASE)


def _is_open(function: Callable[..., Any]) -> bool:
    """Whether a function takes any options at all, and so describes none."""
    return any(option.kind is option.VAR_KEYWORD for option in inspect.signature(function).parameters.values())
