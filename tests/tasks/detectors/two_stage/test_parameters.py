"""Parameters of the published models."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from backbones import ELSASwin, ResNet, Swin
from tasks.detectors import CascadeMaskRCNN, CascadeRCNN, Detector, FasterRCNN, MaskRCNN
from tasks.detectors.two_stage.options import BoxHeadOptions, MaskHeadOptions, RPNOptions

TORCHVISION: dict[str, Any] = {"convention": "torchvision"}
SECOND: dict[str, Any] = {
    **TORCHVISION,
    "pyramid_norm": True,
    "rpn": RPNOptions(convs=2),
    "box_head": BoxHeadOptions(convs=4, fcs=1),
}
S = (2, 2, 18, 2)
MODELS: dict[str, tuple[Callable[[], Detector], int]] = {
    "torchvision faster": (lambda: FasterRCNN(ResNet(50), 90, **TORCHVISION), 41_808_406),
    "torchvision mask": (lambda: MaskRCNN(ResNet(50), 90, **TORCHVISION), 44_454_513),
    "torchvision faster v2": (lambda: FasterRCNN(ResNet(50), 90, **SECOND), 43_712_278),
    "torchvision mask v2": (
        lambda: MaskRCNN(ResNet(50), 90, mask_head=MaskHeadOptions(norm=True), **SECOND),
        46_359_409,
    ),
    "swin-t mask": (lambda: MaskRCNN(Swin(), 80), 47_794_602),
    "swin-s mask": (lambda: MaskRCNN(Swin(depths=S), 80), 69_112_506),
    "swin-t cascade": (lambda: CascadeMaskRCNN(Swin(), 80), 85_629_804),
    "swin-s cascade": (lambda: CascadeMaskRCNN(Swin(depths=S), 80), 106_947_708),
    "swin-b cascade": (lambda: CascadeMaskRCNN(Swin(128, S), 80), 144_977_002),
    "elsa-t mask": (lambda: MaskRCNN(ELSASwin(), 80), 48_647_226),
    "elsa-s mask": (lambda: MaskRCNN(ELSASwin(depths=S, group_width=8), 80), 72_380_874),
    "elsa-t cascade": (lambda: CascadeMaskRCNN(ELSASwin(), 80), 86_482_428),
    "elsa-s cascade": (lambda: CascadeMaskRCNN(ELSASwin(depths=S, group_width=8), 80), 110_216_076),
    "mmdetection faster": (lambda: FasterRCNN(ResNet(50), 80), 41_753_056),
    "mmdetection cascade": (
        lambda: CascadeRCNN(ResNet(50), 80, box_head=BoxHeadOptions(regressors="shared")),
        69_394_766,
    ),
}


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_published(name: str) -> None:
    build, expected = MODELS[name]
    with torch.device("meta"):
        assert count(build()) == expected


def test_heads_alone() -> None:
    with torch.device("meta"):
        mask, cascade = MaskRCNN(Swin(), 80), CascadeMaskRCNN(Swin(), 80)
    for model, expected in ((mask, 20_273_904), (cascade, 58_109_106)):
        assert count(model) - count(model.backbone) == expected
    parts = [count(part) for part in (mask.neck, mask.rpn, mask.box_heads, mask.mask_heads)]
    assert parts == [2_729_984, 593_935, 14_306_705, 2_643_280]
    parts = [count(part) for part in (cascade.neck, cascade.rpn, cascade.box_heads, cascade.mask_heads)]
    assert parts == [2_729_984, 593_935, 3 * 15_618_449, 3 * 2_643_280]
