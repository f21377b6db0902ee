"""Importing this module registers every published network with timm.

    import backbones.in_timm
    timm.create_model("elsa_swin_t", features_only=True, out_indices=(1, 2, 3))

Where timm has a network of the same name, ours is called `attndense_NAME`. Without `features_only` the network has the
paper's classification head. `pretrained=True` is refused, because this package publishes no weights: give
`weights=...`.
"""

import sys
from collections.abc import Callable
from typing import Any

import timm
from timm.models import register_model
from timm.models._features import FeatureInfo
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.zoo.registry import build_backbone, classifier, list_backbones


class Features(nn.Module):
    """The chosen feature maps of a backbone, with timm's description of them.

    Args:
        backbone: Where they come from.
        out_indices: Which of its maps, in this order; negative ones count from the last.
    """

    def __init__(self, backbone: Backbone, out_indices: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        levels = zip(backbone.channels, backbone.strides, strict=True)
        described = [
            {"num_chs": width, "reduction": stride, "module": f"{i}"} for i, (width, stride) in enumerate(levels)
        ]
        self.out_indices = tuple(index % len(described) for index in out_indices)
        backbone.use_maps(sorted(out_indices, key=lambda index: index % len(described)))
        self.feature_info = FeatureInfo(described, self.out_indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x` (B, 3, H, W)."""
        maps = dict(zip(sorted(self.out_indices), self.backbone(x), strict=True))
        return [maps[index] for index in self.out_indices]


def _entry(name: str) -> Callable[..., nn.Module]:
    """A function as timm's registry wants it, under the name that timm is to know."""

    def create(
        pretrained: bool = False,
        pretrained_cfg: object = None,
        pretrained_cfg_overlay: object = None,
        cache_dir: object = None,
        features_only: bool = False,
        out_indices: tuple[int, ...] | None = None,
        num_classes: int = 1000,
        in_chans: int = 3,
        **options: Any,
    ) -> nn.Module:
        if in_chans != 3:
            raise ValueError(f"in_chans={in_chans}: the networks of this package take images of 3 channels")
        if pretrained:
            raise ValueError(f"pretrained=True: no weights are published with {name}; give weights=PATH instead")
        if not features_only:
            return classifier(name, num_classes, **options)
        backbone = build_backbone(name, **options)
        return Features(backbone, tuple(range(len(backbone.channels))) if out_indices is None else tuple(out_indices))

    create.__name__ = f"attndense_{name}" if timm.is_model(name) else name
    return create


for _name in list_backbones():
    _create = _entry(_name)
    # timm's registry looks for the function among the names of its module.
    setattr(sys.modules[__name__], _create.__name__, register_model(_create))
