"""Heads, necks and losses of MMSegmentation's registry: found by name, their options, built.

`mmseg` is imported when the first is looked for: the import takes seconds that no other program should pay.
"""

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info

from tasks.near_names import instead

Config = dict[str, Any]


def find_class(name: str) -> type:
    """A class of MMSegmentation's registry, or ours in the place of one that does not do here what it says.

    Raises:
        ValueError: The registry does not know the name.
    """
    import mmseg.models
    from mmengine.registry import init_default_scope

    import tasks.segmentors.in_mmseg  # noqa: F401 - registers ours

    init_default_scope("mmseg")
    found: type | None = _own_parts().get(name) or mmseg.registry.MODELS.get(name)
    if found is None:
        known = [*mmseg.models.decode_heads.__all__, "AttentionHead", "CAAHead"]
        near = instead(name, known) if name.endswith("Head") else ""
        raise ValueError(f"MMSegmentation has no {name!r}{near or '; see mmseg.models for what it has'}")
    return found


def options_of(found: type) -> dict[str, inspect.Parameter]:
    """The options of a class, with those of the classes that its constructor hands `**options` on to."""
    options: dict[str, inspect.Parameter] = {}
    for parent in found.__mro__:
        if "__init__" not in vars(parent):
            continue
        own = [*inspect.signature(vars(parent)["__init__"]).parameters.values()][1:]
        for option in own:
            if option.kind not in (option.VAR_KEYWORD, option.VAR_POSITIONAL):
                options.setdefault(option.name, option)
        if not any(option.kind is option.VAR_KEYWORD for option in own):
            break
    return options


def check_options(config: Config, sets: Sequence[str] = ()) -> Config:
    """A config as its class takes it: lists become tuples where the default is one.

    Args:
        config: With its `type`.
        sets: Options of its parents that the class sets itself.

    Raises:
        ValueError: The class has no such option, or one without a default is missing.
    """
    name = config["type"]
    known = {option: value for option, value in options_of(find_class(name)).items() if option not in sets}
    for wrong in sorted(config.keys() - {"type"} - known.keys()):
        raise ValueError(f"{name} has no option {wrong}{instead(wrong, [*known])}")
    for option, value in known.items():
        if value.default is value.empty and option not in config:
            raise ValueError(f"{name} needs {option}; give it in the config beside its type")
    tuples = {option for option, value in known.items() if isinstance(value.default, tuple)}
    return {key: tuple(value) if key in tuples and isinstance(value, list) else value for key, value in config.items()}


def build_part(config: Config) -> Any:
    """Builds a head or neck and initialises it as its config says, where it has memory at all."""
    from mmengine.logging import MMLogger

    MMLogger.get_current_instance().setLevel("WARNING")  # init_weights reports every tensor otherwise
    module = build_uninitialised(config)
    if not any(parameter.is_meta for parameter in module.parameters()):
        module.init_weights()
    return module


def build_uninitialised(config: Config) -> Any:
    """Builds a head or neck, with our parts in the places of MMSegmentation's."""
    from mmseg.registry import MODELS

    find_class(config["type"])
    if not torch.cuda.is_available():
        config = _changed(config, _on_cpu)
    # Some constructors take things out of the configs that they are given.
    return MODELS.build(_changed(copy.deepcopy(config), _ours))


def _changed(value: Any, change: Callable[[Config], Config]) -> Any:
    """A config with all configs inside it that have a `type` changed."""
    if isinstance(value, list | tuple):
        return type(value)(_changed(inner, change) for inner in value)
    if not isinstance(value, dict):
        return value
    inside = {name: _changed(inner, change) for name, inner in value.items()}
    return change(inside) if isinstance(inside.get("type"), str) else inside


def _on_cpu(part: Config) -> Config:
    if part["type"] != "SyncBN":
        return part
    rank_zero_info("SyncBN needs GPUs, batch norm takes its place on the CPU")
    return part | {"type": "BN"}


def _ours(part: Config) -> Config:
    return part | {"type": _own_parts().get(part["type"], part["type"])}


def _own_parts() -> dict[str, type]:
    """Heads and losses that stand in for MMSegmentation's of the same name."""
    from tasks.segmentors import losses, mmseg_heads

    return {found.__name__: found for found in (*mmseg_heads.OWN, *losses.OWN)}
