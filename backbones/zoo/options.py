"""The options of a published network: those that it names itself, and those of its host that say how it is used.

A published network's function hands `**options` on to its host. What a caller sees, the command line included, is an
ordinary signature with types, defaults and descriptions, derived here from that of the host.
"""

import inspect
import re
from collections import ChainMap
from collections.abc import Callable
from functools import cache
from typing import Any

USE = (
    "out_indices",
    "out_strides",
    "out_norms",
    "output_stride",
    "dilation",
    "contract_dilation",
    "multi_grid",
    "last_conv",
    "tap_expansion",
    "drop_path",
    "shift_small_maps",
    "shift_together",
    "image_size",
    "frozen_stages",
    "norms",
    "checkpointing",
    "weights",
)
"""Options of hosts that every published network leaves open. All others are what was published, and are fixed."""


def published_signature(build: Callable[..., Any]) -> inspect.Signature:
    """The options of a published network, its own first, then the host's in the host's order.

    An option of the host that the network names itself has the network's default.

    Args:
        build: Function that returns the host and hands `**options` on to it; its annotation names the host's class.
    """
    signature = inspect.signature(build)
    own = {name: option for name, option in signature.parameters.items() if option.kind is not option.VAR_KEYWORD}
    host = inspect.signature(signature.return_annotation).parameters
    used = {name: own.get(name, option) for name, option in host.items() if name in USE}
    return signature.replace(parameters=[*(option for name, option in own.items() if name not in used), *used.values()])


def published_docstring(build: Callable[..., Any], signature: inspect.Signature) -> str:
    """The docstring of a published network with every option described: by itself, its host, or an operator in it.

    Args:
        build: The network's function.
        signature: What `published_signature` makes of it.
    """
    summary, own = _parts(build.__doc__)
    classes = [signature.return_annotation, *filter(inspect.isclass, inspect.getclosurevars(build).globals.values())]
    described = ChainMap(own, *(_parts(cls.__doc__)[1] for cls in classes))
    return "\n".join([summary, "", "Args:", *(described[name] for name in signature.parameters)])


@cache
def _parts(docstring: str | None) -> tuple[str, dict[str, str]]:
    """What a docstring says in front of its arguments, and the lines about each of them."""
    text, _, arguments = inspect.cleandoc(docstring or "").partition("Args:\n")
    items = re.split(r"\n(?=    \w)", arguments.split("\n\n")[0].rstrip())
    return text.rstrip(), {item.split(":")[0].strip(): item for item in items}
