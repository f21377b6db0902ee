"""MMSegmentation's backbones as hosts of this package: what computes the same, by the backbone's config."""

from collections.abc import Callable, Mapping
from itertools import accumulate
from math import prod
from operator import mul
from typing import Any

import torch

from backbones import Backbone, MobileNetV2, ResNet, Swin

Config = Mapping[str, Any]


def host_of(config: Config) -> Backbone | None:
    """The host that computes what a backbone of MMSegmentation does, without weights; None where there is none here.

    Args:
        config: The backbone's config, with its `type`.

    Raises:
        ValueError: It is of a family that is here, with an option that is not.
    """
    build = _FAMILIES.get(config.get("type", ""))
    if build is None:
        return None
    if config.get("in_channels", 3) != 3:
        raise ValueError(f"has a backbone for {config['in_channels']} channels, here images have 3")
    with torch.device("meta"):
        return build(config)


def _resnet(config: Config) -> Backbone:
    kind, grid = config["type"], config.get("multi_grid")
    deep, pooled = config.get("deep_stem", kind != "ResNet"), config.get("avg_down", kind == "ResNetV1d")
    if config.get("style", "pytorch") != "pytorch":
        raise ValueError("has a ResNet in Caffe's style, whose strides are in other convolutions")
    if pooled and not deep:
        raise ValueError("has a ResNet with pooled shortcuts and without a deep stem")
    return ResNet(
        config["depth"],
        variant="v1d" if pooled else "v1c" if deep else "v1b",
        output_stride=4 * _strides_left(config, (1, 2, 2, 2), (1, 1, 1, 1)),
        dilation="mmsegmentation",
        contract_dilation=config.get("contract_dilation", False),
        multi_grid=None if grid is None else tuple(grid),
    )


def _mobilenet_v2(config: Config) -> Backbone:
    stride = 2 * _strides_left(config, (1, 2, 2, 2, 1, 2, 1), (1,) * 7)
    return MobileNetV2(config.get("widen_factor", 1.0), output_stride=stride, dilation="mmsegmentation")


def _swin(config: Config) -> Backbone:
    channels = config.get("embed_dims", config.get("embed_dim", 96))  # the latter in the authors' code
    if config.get("use_abs_pos_embed", config.get("ape", False)):
        raise ValueError("has a Swin with absolute positions, which are not here")
    depths, window = tuple(config.get("depths", (2, 2, 6, 2))), config.get("window_size", 7)
    heads = tuple(config.get("num_heads", (3, 6, 12, 24)))
    return Swin(channels, depths, window, heads, shift_small_maps=True)


def _strides_left(config: Config, usual: tuple[int, ...], rates: tuple[int, ...]) -> Any:
    """Product of the strides; dilations that do not make up for those that were taken out are refused."""
    strides, rates = tuple(config.get("strides", usual)), tuple(config.get("dilations", rates))
    removed = tuple(accumulate((full // left for full, left in zip(usual, strides, strict=True)), mul))
    if rates != removed:
        raise ValueError(f"has strides {strides} with dilations {rates}; here these would be {removed}")
    return prod(strides)


_FAMILIES: dict[str, Callable[[Config], Backbone]] = {
    "ResNet": _resnet,
    "ResNetV1c": _resnet,
    "ResNetV1d": _resnet,
    "MobileNetV2": _mobilenet_v2,
    "SwinTransformer": _swin,
}
