"""What every backbone promises to necks, heads and optimizers, whatever its host."""

import copy
import math

import pytest
import torch
from torch import nn

from attention import CBAM, CoordinateAttention, SqueezeExcitation
from attention.base import Operator
from backbones import Backbone, MobileNetV2, ResNet

BACKBONES = [  # of both hosts one in every run; every host in its defaults: test_zoo.py
    pytest.param(lambda: ResNet(18), id="resnet18", marks=pytest.mark.slow),
    pytest.param(lambda: ResNet(18, SqueezeExcitation, (2, 4), output_stride=16), id="resnet18-se-os16"),
    pytest.param(lambda: ResNet(50, CBAM, output_stride=8), id="resnet50-cbam-os8", marks=pytest.mark.slow),
    pytest.param(lambda: ResNet(18, CoordinateAttention, placement="pre"), id="resnet18-ca-pre"),
    pytest.param(MobileNetV2, id="mobilenet", marks=pytest.mark.slow),
    pytest.param(
        lambda: MobileNetV2(0.5, CoordinateAttention, 16, last_conv=True),
        id="mobilenet-ca-os16-last",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        lambda: MobileNetV2(0.35, lambda c: CBAM(c, 8), output_stride=8, tap_expansion=True),
        id="mobilenet-cbam-os8-tap",
    ),
]
every_backbone = pytest.mark.parametrize("make", BACKBONES)


def wake(backbone: nn.Module) -> None:
    """Gives weight to the gates of CBAM, which begin with zero and pass no gradient to their kernels."""
    for module in backbone.modules():
        if isinstance(module, CBAM):
            nn.init.ones_(module.spatial.bn.weight)


@every_backbone
def test_features_have_the_promised_channels_and_strides(make):
    backbone = make().eval()
    assert len(backbone.channels) == len(backbone.strides)
    assert list(backbone.strides) == sorted(backbone.strides)
    for height, width in [(203, 331), (64, 64), (33, 1)]:
        with torch.no_grad():
            features = backbone(torch.randn(1, 3, height, width))
        expected = [
            (1, channels, math.ceil(height / stride), math.ceil(width / stride))
            for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
        ]
        assert [tuple(feature.shape) for feature in features] == expected


@every_backbone
def test_backward_reaches_every_parameter(make):
    torch.manual_seed(0)
    backbone = make().eval()
    wake(backbone)
    sum(feature.square().mean() for feature in backbone(torch.randn(2, 3, 64, 96))).backward()
    lost = [
        n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
    assert lost == []


@every_backbone
def test_layer_groups_partition_the_parameters_from_shallow_to_deep(make):
    backbone = make()
    groups = backbone.layer_groups()
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    flat = [names[id(parameter)] for group in groups for parameter in group]
    assert sorted(flat) == sorted(names.values())
    assert all(groups)
    assert len(groups) == 1 + sum(map(len, backbone.stages()[1:]))
    assert flat == list(names.values())  # the hosts register their modules in the order of the data flow


def parts_of_operators(module: nn.Module) -> list[nn.Module]:
    """Every module of the inserted operators: these learn in frozen stages, too."""
    operators = [operator for operator in module.modules() if isinstance(operator, Operator)]
    return [part for operator in operators for part in operator.modules()]


@every_backbone
def test_frozen_stages_survive_training(make):
    torch.manual_seed(0)
    backbone = make()
    backbone.freeze(3)
    assert backbone.frozen_stages == 3
    stages = [nn.ModuleList(stage) for stage in backbone.stages()]
    before = [copy.deepcopy(stage.state_dict()) for stage in stages]
    optimizer = torch.optim.SGD((p for p in backbone.parameters() if p.requires_grad), lr=0.1, weight_decay=0.1)
    assert backbone.train() is backbone
    sum(feature.square().mean() for feature in backbone(torch.randn(2, 3, 64, 64))).backward()
    optimizer.step()
    for index, (stage, state) in enumerate(zip(stages, before, strict=True)):
        frozen = index < 3
        inserted = parts_of_operators(stage)
        learning = {id(parameter) for part in inserted for parameter in part.parameters()}
        assert all(part.training != frozen for part in stage.modules() if part is not stage and part not in inserted)
        assert all(part.training for part in inserted)
        assert all((p.grad is None) == (frozen and id(p) not in learning) for p in stage.parameters())
        for name, parameter in stage.named_parameters():
            assert torch.equal(parameter, state[name]) == (frozen and id(parameter) not in learning), name
        for name, statistic in stage.named_buffers():
            owner = stage.get_submodule(name.rpartition(".")[0])
            assert torch.equal(statistic, state[name]) == (frozen and owner not in inserted), name


@every_backbone
def test_freeze_is_absolute_and_checks_its_range(make):
    backbone = make()
    backbone.freeze(5)
    inserted = {id(parameter) for part in parts_of_operators(backbone) for parameter in part.parameters()}
    assert all(p.requires_grad == (id(p) in inserted) for p in backbone.parameters())
    backbone.freeze(1)
    stem, *rest = backbone.stages()
    assert not any(p.requires_grad for module in stem for p in module.parameters() if id(p) not in inserted)
    assert all(p.requires_grad for stage in rest for module in stage for p in module.parameters())
    assert all(m.training for stage in rest for module in stage for m in module.modules())
    backbone.freeze(0)
    assert all(p.requires_grad for p in backbone.parameters())
    assert all(m.training for m in backbone.modules())
    for stages in (-1, 6):
        with pytest.raises(ValueError, match=rf"stages={stages} .*0 \(none\) to 5 \(all\)"):
            backbone.freeze(stages)


@every_backbone
def test_channels_last_and_bfloat16(make):
    torch.manual_seed(0)
    backbone = make().eval()
    wake(backbone)
    x = torch.randn(1, 3, 65, 64)
    with torch.no_grad():
        expected = backbone(x)
        features = backbone.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = backbone(x)
    for feature, value, low in zip(features, expected, half, strict=True):
        assert feature.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(feature, value, rtol=1e-3, atol=1e-3)
        assert low.isfinite().all()


@every_backbone
def test_state_dict_restores_the_features(make):
    source, target = make(), make()
    target.load_state_dict(source.state_dict())
    x = torch.randn(1, 3, 40, 33)
    for feature, expected in zip(target.eval()(x), source.eval()(x), strict=True):
        assert torch.equal(feature, expected)


class Forgetful(Backbone):
    """A host whose `stages` misses or repeats a module."""

    def __init__(self, repeat: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.repeat = repeat

    def forward(self, x):
        return [self.second(self.first(x))]

    def stages(self):
        return [[self.first], [self.second, self.second]] if self.repeat else [[self.first]]


@pytest.mark.parametrize(("repeat", "message"), [(False, "second.bias, second.weight"), (True, "occurs twice")])
def test_incomplete_stages_are_an_error(repeat, message):
    with pytest.raises(ValueError, match=message):
        Forgetful(repeat).layer_groups()


def test_convolutional_hosts_have_no_published_weights_by_default():
    host = Forgetful(False)
    assert host.published_weights() is None
    assert host.inserted_prefixes() == ()
    assert host.size_divisibility == 1
