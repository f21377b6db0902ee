"""Options of a segmentor that the config beside published weights asks for, and that a model has otherwise."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from backbones import Backbone
from backbones.zoo.registry import backbone_function

Config = Mapping[str, Any]
_FOLLOWING = ("num_classes", "in_channels", "c1_in_channels", "feature_strides")
_IN_TRAINING = ("loss_decode", "sampler", "ignore_index", "dropout_ratio", "init_cfg", "train_cfg", "test_cfg")
_IN_WEIGHTS = ("norm_cfg", "in_index", "start_level", "end_level")  # their names or shapes tell
_NOT_COMPARED = (*_FOLLOWING, *_IN_TRAINING, *_IN_WEIGHTS)


def backbone_differences(backbone: Backbone, expected: Backbone) -> dict[str, object]:
    """Options that a backbone needs to compute what another one does; "" stands for its class."""
    kind = type(expected)
    own = backbone.network_options() if isinstance(backbone, kind) else None
    if own is not None:
        wanted = {name: value for name, value in expected.network_options().items() if own[name] != value}
        network = backbone_function(backbone.published_name) if backbone.published_name else kind
        if wanted.keys() <= inspect.signature(network).parameters.keys():
            return wanted
    with torch.device("meta"):
        usual = kind().network_options()
    options = {name: value for name, value in expected.network_options().items() if usual[name] != value}
    return {"": f"backbones.{kind.__name__}", **options}


def part_differences(own: Config | None, expected: Config | None) -> dict[str, object]:
    """Options that a head or neck needs to compute what the config of another says; "" stands for the whole config.

    Args:
        own: Config of the part; None where there is none.
        expected: Config in the file.
    """
    if own is None or expected is None or own["type"] != expected["type"]:
        same = (own is None) == (expected is None) and own is None
        return {} if same else {"": None if expected is None else _to_give(expected)}
    usual = _defaults(expected["type"])
    names = [name for name in {**expected, **own} if name not in (*_NOT_COMPARED, *_logits(expected))]
    values = {name: (own.get(name, usual.get(name)), expected.get(name, usual.get(name))) for name in names}
    return {name: theirs for name, (ours, theirs) in values.items() if _plain(ours) != _plain(theirs)}


def _to_give(config: Config) -> dict[str, object]:
    """What a user has to write of a config; the rest follows from the backbone and the data set."""
    left_out = (*_FOLLOWING, *_logits(config), "norm_cfg", "init_cfg", "train_cfg", "test_cfg")
    return {name: value for name, value in config.items() if name not in left_out}


def _logits(config: Config) -> tuple[str, ...]:
    """Name of the number of logits, which follows from that of the classes; a neck's is a choice."""
    return ("out_channels",) if "num_classes" in config else ()


def _defaults(kind: str) -> dict[str, Any]:
    """Defaults of a part of MMSegmentation by the signatures of its class and of those that it derives from."""
    from mmseg.registry import MODELS

    found: dict[str, Any] = {}
    for cls in inspect.getmro(MODELS.get(kind) or object):
        for name, parameter in inspect.signature(cls).parameters.items() if cls is not object else ():
            if parameter.default is not parameter.empty:
                found.setdefault(name, parameter.default)
    return found


def _plain(value: Any) -> Any:
    """A value in which lists and tuples are the same."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return {name: _plain(part) for name, part in value.items()} if isinstance(value, Mapping) else value
