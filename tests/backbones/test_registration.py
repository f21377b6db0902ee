"""The published networks as MMSegmentation and timm users get them."""

import pytest
import timm
import torch

import backbones
import backbones.in_timm


def test_mmsegmentation_builds_every_network_by_name():
    from mmseg.registry import MODELS

    import backbones.in_mmseg

    for name in backbones.list_backbones():
        assert name in MODELS
    network = MODELS.build(dict(type="se_resnet50", frozen_stages=1))
    assert network.channels == (256, 512, 1024, 2048)
    assert not network.conv1.weight.requires_grad


def test_mmsegmentation_trains_a_segmentor_on_one():
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    import backbones.in_mmseg  # noqa: F401

    init_default_scope("mmseg")
    segmentor = MODELS.build(
        dict(
            type="EncoderDecoder",
            backbone=dict(type="mobilenet_v2_ca", width=0.5),
            decode_head=dict(
                type="FCNHead", in_channels=160, in_index=3, channels=8, num_convs=1, num_classes=4, norm_cfg=None
            ),
        )
    )
    scores = segmentor(torch.randn(2, 3, 33, 65), mode="tensor")
    assert scores.shape[:2] == (2, 4)
    scores.square().mean().backward()
    assert next(segmentor.backbone.parameters()).grad is not None


@pytest.mark.parametrize("name", ["elsa_swin_t", "mobilenet_v2_ca"])
def test_timm_gives_feature_maps(name):
    network = timm.create_model(name, features_only=True).eval()
    channels, strides = network.feature_info.channels(), network.feature_info.reduction()
    maps = network(torch.randn(1, 3, 65, 97))
    for found, width, stride in zip(maps, channels, strides, strict=True):
        assert found.shape == (1, width, -(-65 // stride), -(-97 // stride))


def test_timm_chooses_among_feature_maps():
    network = timm.create_model("attndense_resnet50", features_only=True, out_indices=(1, -1), frozen_stages=1)
    assert network.feature_info.channels() == [512, 2048]
    assert [x.shape[1] for x in network(torch.randn(1, 3, 33, 33))] == [512, 2048]
    with pytest.raises(ValueError, match=r"out_indices=\(4,\): this network has 4 feature maps"):
        timm.create_model("mobilenext", features_only=True, out_indices=(4,))


def test_timm_knows_every_network_and_keeps_its_own():
    known = set(timm.list_models())
    for name in backbones.list_backbones():
        assert name in known
    assert type(timm.create_model("resnet18")).__module__.startswith("timm.")
    network = timm.create_model("mobilenext", num_classes=7)
    assert network.fc.out_features == 7
    assert isinstance(timm.create_model("mobilenext", in_chans=3, features_only=True), backbones.in_timm.Features)
    with pytest.raises(ValueError, match="in_chans=1: the networks of this package take images of 3 channels"):
        timm.create_model("mobilenext", in_chans=1)
    with pytest.raises(ValueError, match="no weights are published with mobilenext; give weights=PATH"):
        timm.create_model("mobilenext", pretrained=True)
