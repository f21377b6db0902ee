"""Swin Transformer (Liu et al., ICCV 2021, arXiv 2103.14030) in three sizes."""

from typing import Any

from torch import nn

from backbones.base import Backbone
from backbones.classifier import Classifier
from backbones.swin import Swin
from backbones.zoo.registry import zoo_entry


def swin_classifier(backbone: Backbone, num_classes: int) -> Classifier:
    """Global average and one linear layer, initialised like the others of these networks: normal, deviation 0.02."""
    network = Classifier(backbone, num_classes)
    nn.init.trunc_normal_(network.fc.weight, std=0.02)
    return network


@zoo_entry(head=swin_classifier, out_norms="last")
def swin_t(drop_path: float = 0.2, **options: Any) -> Swin:
    """Swin-T: 81.2 % top-1 (arXiv 2103.14030, table 1), torchvision's weights 81.474 %."""
    return Swin(96, (2, 2, 6, 2), drop_path=drop_path, **options)


@zoo_entry(head=swin_classifier, out_norms="last")
def swin_s(drop_path: float = 0.3, **options: Any) -> Swin:
    """Swin-S: 83.2 % top-1 (arXiv 2103.14030, table 1), torchvision's weights 83.196 %."""
    return Swin(96, (2, 2, 18, 2), drop_path=drop_path, **options)


@zoo_entry(head=swin_classifier, out_norms="last")
def swin_b(drop_path: float = 0.5, **options: Any) -> Swin:
    """Swin-B: 83.5 % top-1 (arXiv 2103.14030, table 1), torchvision's weights 83.582 %."""
    return Swin(128, (2, 2, 18, 2), drop_path=drop_path, **options)
