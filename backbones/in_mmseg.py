"""Importing this module registers every published network with MMSegmentation.

    import backbones.in_mmseg
    MODELS.build(dict(type="elsa_swin_t", out_indices=(1, 2, 3), frozen_stages=1))

Every network takes `out_indices`, the numbers of the maps that the heads read; what only the others need is left out.
This is a module of its own because importing MMSegmentation takes seconds.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from mmseg.registry import MODELS

from backbones.base import Backbone
from backbones.zoo.registry import backbone_function, list_backbones


def _entry(build: Callable[..., Backbone]) -> Callable[..., Backbone]:
    """A function of a published network that takes `out_indices` besides."""

    @wraps(build)
    def create(out_indices: tuple[int, ...] | None = None, **options: Any) -> Backbone:
        backbone = build(**options)
        if out_indices is not None:
            backbone.use_maps(out_indices)
        return backbone

    return create


for _name in list_backbones():
    MODELS.register_module(name=_name, module=_entry(backbone_function(_name)))
