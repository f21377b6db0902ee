"""Objects as plain data: the class by its import path, and the arguments that it keeps under their names."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from datamodules.errors import DataError


def describe(part: object, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What an object is made of, in the form of the command line's `class_path` and `init_args`.

    Args:
        part: The object.
        arguments: Some of its constructor's arguments; others stay at their defaults, and what the constructor does not
            take is left out. Default: all of them, as the object keeps them.

    Raises:
        DataError: It does not keep an argument under its name, or one is no plain data.
    """
    kind = type(part)
    names = list(inspect.signature(kind).parameters)
    if arguments is None:
        lost = [name for name in names if not hasattr(part, name)]
        if lost:
            raise DataError(f"{kind.__name__} does not keep its argument {lost[0]!r}: expected self.{lost[0]}")
        arguments = {name: getattr(part, name) for name in names}
    plain = {name: _plain(arguments[name], f"{kind.__name__}.{name}") for name in names if name in arguments}
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": plain}


def _plain(value: Any, where: str) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(each, where) for each in value]
    if isinstance(value, Mapping):
        return {_plain(name, where): _plain(each, where) for name, each in value.items()}
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value), where)
    if callable(value) or type(value).__module__ in ("builtins", "numpy", "torch"):
        raise DataError(f"{where} is {value!r}, expected plain data, or an object of such arguments")
    return describe(value)
