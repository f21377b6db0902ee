"""A small network whose weights are saved and loaded."""

from functools import cache

import torch

from backbones import Backbone, MobileNetV2


def small(**options) -> Backbone:
    return MobileNetV2(0.35, **options)


@cache
def original() -> Backbone:
    """A network whose weights are saved; never changed, so that all tests share it."""
    return small()


def equal(first: Backbone, second: Backbone) -> bool:
    state = second.state_dict()  # made anew by every call
    return all(torch.equal(value, state[name]) for name, value in first.state_dict().items())
