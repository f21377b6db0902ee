"""VOLO: timm's network with its weights, and the sizes of the paper; what it shares with ELSA-VOLO is tested there."""

import pytest
import timm
import torch
from timm.models import volo
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from attention import OutlookAttention, SelfCalibratedConv2d
from backbones import VOLO, load_weights
from backbones.volo import VOLOClassifier
from backbones.zoo.registry import classifier, published_figures

TINY = {
    "depths": (2, 1, 2, 1),
    "embed_channels": (24, 32),
    "heads": (3, 4),
    "stem_channels": 8,
    "drop_path": 0.0,
    "image_size": 64,
}
PARAMETERS = {1: 26_632_040, 2: 58_678_336, 3: 86_325_072, 4: 192_961_520, 5: 295_455_584}


@pytest.mark.parametrize("number", [1, *(pytest.param(number, marks=pytest.mark.slow) for number in (2, 3, 4, 5))])
def test_sizes_are_those_of_timm_and_of_the_paper(number):
    name = f"volo_d{number}"
    figures = published_figures()[name]
    with torch.device("meta"):
        network, peer = classifier(name), timm.create_model(f"{name}_224")
        assert sum(p.numel() for p in network.parameters()) == PARAMETERS[number] == figures.parameters
        assert sum(p.numel() for p in peer.parameters()) == PARAMETERS[number]
        if number > 1:
            return
        counts = []
        for module in (network.eval(), peer.eval()):
            with FlopCounterMode(display=False) as counter:
                module(torch.zeros(1, 3, 224, 224))
            counts.append(counter.get_total_flops() // 2)
    # In each of four blocks timm sums 14^2 windows of 9 x 9 weights, and we 28^2 neighbourhoods of 25 cells.
    assert counts[0] - counts[1] == 4 * 192 * (28**2 * 25 - 14**2 * 81)
    assert figures.macs == counts[0] and figures.reading == "verified"


def timms(**options):
    torch.manual_seed(0)
    network = volo.VOLO(
        [2, 1, 2, 1],
        64,
        stem_hidden_dim=8,
        embed_dims=[24, 32, 32, 32],
        num_heads=[3, 4, 4, 4],
        num_classes=7,
        **options,
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.2)
    return network


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_features_and_scores_equal_timms(training):
    peer = timms().double().train(training)
    ours = VOLOClassifier(VOLO(**TINY, out_norms=False), 7).double().train(training)
    own = ours.state_dict()
    converted = ours.backbone.convert(peer.state_dict())
    ours.load_state_dict(
        {f"backbone.{name}" if f"backbone.{name}" in own else name: value for name, value in converted.items()}
    )
    for size in (64, 48) if not training else (64,):
        x = torch.randn(2, 3, 64, size, dtype=torch.float64)
        with torch.no_grad():
            if size == 64:
                torch.testing.assert_close(ours(x), peer(x), rtol=1e-9, atol=1e-9)
                features = ours.backbone.eval()(x)
                expected = peer.eval().forward_intermediates(x, [0, 3], intermediates_only=True)
            else:  # of other sizes timm has the first stage only
                features = ours.backbone.eval()(x)[:1]
                expected = [peer.network[0](peer.patch_embed(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)]
        for feature, value in zip(features, expected, strict=True):
            torch.testing.assert_close(feature, value, rtol=1e-9, atol=1e-9)


def test_files_of_timm_load_with_the_attention(tmp_path):
    peer, backbone = timms(), VOLO(**TINY, out_norms=False)
    torch.save(peer.state_dict(), tmp_path / "volo.pth")
    load_weights(backbone, str(tmp_path / "volo.pth"))
    for name, value in peer.network[0].state_dict().items():
        assert torch.equal(backbone.network[0].state_dict()[name], value), name
    assert backbone.inserted_prefixes() == () and backbone.start == "pretrained"
    dense = VOLO(**TINY)
    load_weights(dense, str(tmp_path / "volo.pth"))
    assert dense.inserted_prefixes() == ("norm0.", "norm1.") and dense.start == "pretrained host"


def test_another_mixer_takes_the_place_of_outlook_attention():
    backbone = VOLO(**TINY, mixer=SelfCalibratedConv2d)
    assert not any(isinstance(module, OutlookAttention) for module in backbone.modules())
    assert backbone.inserted_prefixes() == ("network.0.0.attn.", "network.0.1.attn.", "norm0.", "norm1.")
    assert [tuple(feature.shape) for feature in backbone(torch.randn(2, 3, 33, 50))] == [(2, 24, 5, 7), (2, 32, 3, 4)]


def test_frozen_stages_hold_the_published_attention():
    backbone = VOLO(**TINY, frozen_stages=2).train()
    assert not any(p.requires_grad for p in backbone.network[0].parameters())
    assert not any(module.training for block in backbone.network[0] for module in block.modules())
    assert all(p.requires_grad for part in backbone.network[1:] for p in part.parameters())
