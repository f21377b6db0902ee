"""Batch normalisations of a pretrained host can keep their statistics; those of inserted attention still learn."""

import pytest
import torch

from attention import CoordinateAttention
from backbones import MobileNetV2, ResNet
from backbones.base import host_norms


def build(norms: str) -> MobileNetV2:
    torch.manual_seed(0)
    return MobileNetV2(0.25, CoordinateAttention, norms=norms)


def train_a_step(backbone: MobileNetV2) -> None:
    backbone.train()
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    sum(feature.square().mean() for feature in backbone(torch.randn(2, 3, 64, 64))).backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("norms", "moves"), [("train", (True, True)), ("eval", (False, True)), ("frozen", (False, False))]
)
def test_what_learns(norms: str, moves: tuple[bool, bool]) -> None:
    backbone = build(norms)
    norm = next(host_norms(backbone))
    before = norm.running_mean.clone(), norm.weight.detach().clone()
    train_a_step(backbone)
    after = norm.running_mean, norm.weight
    assert tuple(not torch.equal(one, other) for one, other in zip(before, after, strict=True)) == moves


def test_norms_of_attention_always_learn() -> None:
    backbone = build("frozen")
    attention = next(module for module in backbone.modules() if isinstance(module, CoordinateAttention))
    norm = next(module for module in attention.modules() if isinstance(module, torch.nn.BatchNorm2d))
    before = norm.running_mean.clone()
    train_a_step(backbone)
    assert not torch.equal(norm.running_mean, before) and norm.weight.requires_grad
    assert len(list(host_norms(backbone))) == len(list(host_norms(build("train"))))


def test_frozen_stages_and_norms_do_not_undo_each_other() -> None:
    backbone = ResNet(18, frozen_stages=2, norms="eval")
    assert not backbone.bn1.weight.requires_grad  # in the frozen stem
    assert backbone.layer2[0].bn1.weight.requires_grad and not backbone.layer2[0].bn1.training
    backbone.freeze(0)
    assert backbone.bn1.weight.requires_grad and not backbone.bn1.training
    backbone.set_norms("frozen")
    backbone.freeze(1)
    assert not backbone.layer4[1].bn2.weight.requires_grad and backbone.layer4[1].conv2.weight.requires_grad


def test_unknown_choice() -> None:
    with pytest.raises(ValueError, match="norms"):
        MobileNetV2(0.25, norms="fixed")
