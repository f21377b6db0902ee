"""The model in the config that MMSegmentation's training scripts write beside the weights, as text and never run."""

import ast
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


def model_config(meta: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the config says of the model; None where there is no config or it is no plain text of one.

    Args:
        meta: What a checkpoint keeps beside its weights: the config is `cfg` (MMSegmentation 1) or `config` (0.x), a
            Python source of assignments whose values are literals and `dict(...)`.
    """
    for key in ("cfg", "config"):
        with suppress(ValueError, SyntaxError):
            for statement in ast.parse(str(meta.get(key, ""))).body:
                if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "model":
                    found = _value(statement.value)
                    return found if isinstance(found, dict) else None
    return None


def _value(node: ast.expr) -> Any:
    """The value of an expression of literals and `dict(...)`; lists and tuples are both lists.

    Raises:
        ValueError: There is something else in it.
    """
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict":
        found = {name: value for part in node.args for name, value in _value(part).items()}
        for keyword in node.keywords:
            found |= {keyword.arg: _value(keyword.value)} if keyword.arg else _value(keyword.value)
        return found
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(part) for part in node.elts]
    return ast.literal_eval(node)
