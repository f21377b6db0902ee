"""Networks of timm as backbones: its features at every size, stages, freezing, weights."""

import math

import pytest
import timm
import torch
from torch import nn

import backbones
from backbones import Backbone, TimmFeatures

FAMILIES = {
    "resnet18": {"channels": (64, 128, 256, 512), "groups": [4, 2, 2, 2, 2]},
    "mobilenetv3_small_050": {"channels": (8, 16, 24, 288), "groups": [3, 1, 2, 5, 4]},
    "convnext_atto": {"channels": (40, 80, 160, 320), "groups": [2, 3, 4, 8, 4]},
}
every_family = pytest.mark.parametrize("name", FAMILIES)


@every_family
def test_features_are_those_of_timm(name):
    backbone = backbones.timm(name).eval()
    assert isinstance(backbone, Backbone)
    assert (backbone.channels, backbone.strides) == (FAMILIES[name]["channels"], (4, 8, 16, 32))
    theirs = timm.create_model(name, features_only=True).eval()
    backbone.host.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for feature, expected in zip(backbone(x), theirs(x)[-4:], strict=True):
            assert torch.equal(feature, expected)


@every_family
def test_every_size(name):
    backbone = backbones.timm(name).eval()
    for height, width in [(203, 331), (64, 64), (33, 37), (32, 61)]:
        x = torch.randn(1, 3, height, width)
        with torch.no_grad():
            features = backbone(x)
            padded = torch.nn.functional.pad(x, (0, -width % 32, 0, -height % 32))
            expected = backbone.host(padded if name == "convnext_atto" else x)[-4:]
        for feature, value, channels, stride in zip(
            features, expected, backbone.channels, backbone.strides, strict=True
        ):
            assert feature.shape == (1, channels, math.ceil(height / stride), math.ceil(width / stride))
            assert torch.equal(feature, value[..., : feature.shape[2], : feature.shape[3]])


@every_family
def test_stages_cover_the_network_block_by_block(name):
    backbone = backbones.timm(name)
    assert [len(stage) for stage in backbone.stages()] == FAMILIES[name]["groups"]
    groups = backbone.layer_groups()
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    assert [names[id(parameter)] for group in groups for parameter in group] == list(names.values())
    with torch.no_grad():
        for index in range(4):  # what follows a stage does not change its map
            x = torch.randn(1, 3, 64, 64)
            before = backbone.eval()(x)[index]
            for stage in backbone.stages()[index + 2 :]:
                for parameter in nn.ModuleList(stage).parameters():
                    parameter.normal_()
            assert torch.equal(backbone(x)[index], before)
            for parameter in nn.ModuleList(backbone.stages()[index + 1]).parameters():
                parameter.add_(0.3)
            assert not torch.equal(backbone(x)[index], before)


@every_family
def test_frozen_stages_stay_frozen_in_training(name):
    backbone = backbones.timm(name, frozen_stages=3).train()
    sum(feature.square().mean() for feature in backbone(torch.randn(2, 3, 64, 64))).backward()
    for index, stage in enumerate(backbone.stages()):
        modules = nn.ModuleList(stage)
        assert all(module.training != (index < 3) for module in modules.modules() if module is not modules)
        assert all((parameter.grad is None) == (index < 3) for parameter in modules.parameters())
    with pytest.raises(ValueError, match=r"frozen stages=6 .*5 \(all\)"):
        backbone.freeze(6)


def test_norms():
    backbone = backbones.timm("resnet18", norms="frozen").train()
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 20
    assert not any(norm.training or norm.weight.requires_grad for norm in norms)
    assert backbone.host.conv1.weight.requires_grad


def test_chosen_features():
    backbone = backbones.timm("resnet18", out_indices=(0, 2)).eval()
    assert (backbone.channels, backbone.strides) == ((64, 128), (2, 8))
    assert [tuple(feature.shape) for feature in backbone(torch.randn(1, 3, 33, 50))] == [
        (1, 64, 17, 25),
        (1, 128, 5, 7),
    ]
    assert [len(stage) for stage in backbone.stages()] == [2, 1, 5]
    assert not hasattr(backbone.host, "layer3")


def test_channels_last_networks_and_vision_transformers():
    with torch.device("meta"):
        windows = backbones.timm("swin_tiny_patch4_window7_224", options={"strict_img_size": False}).eval()
        tokens = backbones.timm("vit_tiny_patch16_224", options={"dynamic_img_size": True, "depth": 4}).eval()
        for backbone, count in ((windows, 5), (tokens, 1)):
            assert len(backbone.stages()) == count
            assert sum(map(len, backbone.layer_groups())) == len([*backbone.parameters()])
            features = backbone(torch.zeros(1, 3, 70, 45))
            for feature, channels, stride in zip(features, backbone.channels, backbone.strides, strict=True):
                assert feature.shape == (1, channels, math.ceil(70 / stride), math.ceil(45 / stride))


@every_family
def test_files_of_timm_load(name, tmp_path, caplog):
    path = str(tmp_path / "weights.pth")
    theirs = timm.create_model(name).eval()
    torch.save(theirs.state_dict(), path)
    backbone = backbones.timm(name, weights=path).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.forward_intermediates(x, intermediates_only=True)[-4:]
        for feature, value in zip(backbone(x), expected, strict=True):
            torch.testing.assert_close(feature, value)
    assert all("unexpected" in record.message for record in caplog.records)  # what follows the last map
    assert "fc.weight" in backbone.convert(theirs.state_dict())
    torch.save(dict([*theirs.state_dict().items()][6:]), path)
    with pytest.raises(ValueError, match=r"lacks \d+ of"):
        backbones.timm(name, weights=path)


def test_imagenet_is_the_weights_of_that_name(monkeypatch):
    asked = []
    monkeypatch.setattr("backbones.weight_sources._of_timm", lambda weights: asked.append(weights))
    with torch.device("meta"):
        for weights in ("imagenet", "resnet18.a1_in1k"):
            with pytest.raises(ValueError, match="holds no state dict"):
                backbones.timm("resnet18", weights=weights)
    assert asked == ["resnet18", "resnet18.a1_in1k"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet19", {}, r"'resnet19' is no network of timm .*did you mean resnet\d+, .*\?"),
        ("zzzzzzzz", {}, r"call timm.list_models\(\)"),
        ("resnet18", {"colour": 1}, r"cannot be built with feature maps and options=\{'colour': 1\} \(.*colour"),
        ("vit_tiny_patch16_224", {"depth": 3}, r"does not take images of every size \(.*dynamic_img_size"),
        ("halonet26t", {}, r"every size .*backbones.TimmHaloNet\('halonet26t'\) does"),
        ("inception_v3", {}, r"does not take images of every size"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(name, options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        TimmFeatures(name, options=options)
