"""A checkpoint is data: the classes that it names are built only if they are parts of a model.

A checkpoint holds the constructor arguments of its model, with classes as import paths. Whoever builds the model again
imports and calls what stands there: in spite of `torch.load(weights_only=True)` and Lightning's list of instantiators,
jsonargparse (4.53) runs `optimizer: {class_path: os.system, init_args: {command: ...}}`, and mmengine (0.10) a loss of
`{type: os.system, command: ...}`.
"""

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tasks.segmentors import Inference

PARTS_OF_A_MODEL = (nn.Module, Optimizer, LRScheduler, Inference)
OWN_PACKAGES = ("attention", "backbones", "tasks")
"""Packages that may be imported because a checkpoint names them; from others only what is imported already."""

_ARGUMENTS = ("hyper_parameters", "hparams", "module_arguments")  # the latter two in checkpoints of old versions
_BUILDERS = ("lightning.pytorch.cli.instantiate_module", "pytorch_lightning.cli.instantiate_module")
_TEXTS = ("class_names", "weights")  # options that nobody takes for an import path
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def foreign_code(checkpoint: Mapping[str, Any]) -> str | None:
    """The first import path in a checkpoint's arguments that is no part of a model; nothing foreign is imported.

    A part is a class of `PARTS_OF_A_MODEL` in `OWN_PACKAGES` or in a module that the program has imported, or a
    published network of `backbones`.
    """
    for key in _ARGUMENTS:
        for path in _import_paths(checkpoint.get(key, {})):
            if not _is_part_of_a_model(path):
                return path
    return None


def foreign_class(arguments: Mapping[str, Any], parts: tuple[type, ...], package: str) -> str | None:
    """The first import path in arguments that is no class of `parts`; only `package` is imported for it.

    Args:
        arguments: Nested arguments, with classes as import paths.
        parts: Bases of the classes that may be named.
        package: The package that they are from; from others only what is imported already.
    """
    for path in _import_paths(arguments):
        found = _find(path, (package,))
        if not (inspect.isclass(found) and issubclass(found, parts)):
            return path
    return None


def if_yours(path: str) -> str:
    """What to do about an import path that is no part of this package, but the user's own."""
    module = path.rpartition(".")[0]
    return f"If it is yours: `import {module}` before, or on the command line --config RUN/config.fit.yaml"


def _import_paths(value: Any, key: str = "") -> Iterator[str]:
    """Texts that would import something, whichever option they belong to."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in _TEXTS:
                yield from _import_paths(inner, str(name))
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _import_paths(inner, key)
    elif isinstance(value, str) and not (key == "_instantiator" and value in _BUILDERS):
        # mmengine imports the `type` of a part that it does not know even where it has no dot.
        if (_DOTTED.fullmatch(value) or key == "type") and _exists(value.split(".")[0]):
            yield value


def _exists(package: str) -> bool:
    """Whether a package could be imported; it is not."""
    return package in sys.modules or (package.isidentifier() and importlib.util.find_spec(package) is not None)


def _is_part_of_a_model(path: str) -> bool:
    found = _find(path)
    if inspect.isclass(found):
        return issubclass(found, PARTS_OF_A_MODEL)
    return inspect.isfunction(found) and found.__module__.startswith("backbones.zoo.")


def _find(path: str, packages: tuple[str, ...] = OWN_PACKAGES) -> Any:
    """The object behind an import path, or None; imports only from `packages`."""
    names = path.split(".")
    for length in range(len(names) - 1, 0, -1):
        module = ".".join(names[:length])
        if names[0] in packages:
            with suppress(ImportError):
                importlib.import_module(module)
        if module in sys.modules:
            found: Any = sys.modules[module]
            for name in names[length:]:
                found = getattr(found, name, None)
            return found
    return None
