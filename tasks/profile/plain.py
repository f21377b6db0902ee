"""Backbones without attention that a given one can be compared with: its host, narrower, wider, shallower or deeper."""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from backbones import Backbone, MobileNetV1, MobileNetV2, MobileNeXt, ResNet
from backbones.residual_blocks import BasicBlock
from backbones.resnet import Depth
from tasks.errors import TaskError
from tasks.profile import costs

SLOTS: Mapping[str, str | None] = {
    "attention": None,
    "attention_between": None,
    "mixer": None,
    "expansion_mixer": None,
    "stem": "conv",
}
"""Options of hosts that put attention into them, and their values without."""
SIZES = ("depth", "variant", "groups", "width_per_group", "width")
"""Options of hosts that say how large they are, and their attributes."""


@dataclass(frozen=True)
class Candidate:
    """The plain host with one option changed.

    Attributes:
        option: The option, such as `width`.
        value: Its value.
    """

    option: str
    value: float

    def __str__(self) -> str:
        """As on a command line."""
        return f"{self.option}={self.value:g}"


def read_backbone(file: Path) -> dict[str, Any]:
    """`class_path` and `init_args` of a file such as those in configs/backbones, without weights, as none cost more.

    Raises:
        TaskError: There is no such file, or something else is in it.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TaskError(
            f"cannot read {file} ({costs.last_line(error)}); give a file such as configs/backbones/resnet50_cbam.yaml"
        ) from error
    if not isinstance(content, dict) or set(content) - {"class_path", "init_args"} or "class_path" not in content:
        raise TaskError(f"{file} is no backbone: it needs class_path and may have init_args, and nothing else")
    options = {name: value for name, value in (content.get("init_args") or {}).items() if name != "weights"}
    return {"class_path": content["class_path"], "init_args": options}


def build(content: Mapping[str, Any]) -> Backbone:
    """The backbone that `class_path` and `init_args` describe, as recipes build it.

    Raises:
        TaskError: There is no such class, or it refuses an option.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Backbone, "backbone")
    try:
        parsed = parser.parse_object({"backbone": copy.deepcopy(dict(content))})
        built: Backbone = parser.instantiate(parsed).backbone
    except (ArgumentError, ValueError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # jsonargparse wraps it once more at every level
            cause = cause.__cause__
        raise TaskError(f"{content['class_path']} cannot be built: {' '.join(str(cause).split())}") from error
    return built


def without_attention(content: Mapping[str, Any], host: Backbone, candidate: Candidate) -> dict[str, Any]:
    """What a file of a candidate says: the host's class, its own size, nothing in the slots, and one option changed.

    Args:
        content: What the file of the backbone with attention says, whose other options of the host stay.
        host: That backbone.
        candidate: What is changed.
    """
    known = inspect.signature(type(host)).parameters  # a published network has options of its own besides
    options = {name: value for name, value in content["init_args"].items() if name in known}
    options |= {name: getattr(host, name) for name in SIZES if name in known}
    options |= {name: value for name, value in SLOTS.items() if name in known}
    return {
        "class_path": f"backbones.{type(host).__name__}",
        "init_args": options | {candidate.option: candidate.value},
    }


def own_size(host: Backbone) -> Candidate:
    """The candidate that is the host without attention and otherwise as it is."""
    option = "width_per_group" if isinstance(host, ResNet) else "width"
    return Candidate(option, getattr(host, option))


def ladders(host: Backbone) -> list[list[Candidate]]:
    """What the host can be without its attention, by the option that changes; costs rise along each list.

    The first list has the host's own size, and widths from half to twice that. A ResNet of basic blocks has one width.

    Raises:
        TaskError: The host has no plain form that could be wider or deeper.
    """
    if isinstance(host, ResNet):
        basic, own = isinstance(host.layer1[0], BasicBlock), host.width_per_group
        depths = [depth for depth in get_args(Depth) if (depth in (18, 34)) == basic]
        widths = range(-(-own // 2), 2 * own + 1, max(1, own // 16))
        return [
            [own_size(host)] if basic else [Candidate("width_per_group", width) for width in widths],
            [Candidate("depth", depth) for depth in depths if depth != host.depth],
        ]
    if isinstance(host, MobileNetV1 | MobileNetV2 | MobileNeXt):
        return [[Candidate("width", round(host.width * percent / 100, 4)) for percent in range(50, 201, 2)]]
    raise TaskError(
        f"{type(host).__name__} has no plain form that is wider or deeper; match a backbone of class ResNet, "
        "MobileNetV1, MobileNetV2 or MobileNeXt"
    )
