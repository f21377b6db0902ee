"""EfficientNet: torchvision's network as it is, and another operator in place of its squeeze-and-excitation."""

import copy
import math

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from attention import CoordinateAttention, SqueezeExcitation
from backbones import EfficientNet, load_weights
from backbones.zoo.registry import classifier
from tests.selection import mostly_slow

SIZES = {
    "plain": (lambda: classifier("efficientnet_b0"), 5_288_548, 385_814_752),
    "ca": (lambda: classifier("efficientnet_b0_ca"), 5_381_804, 394_014_048),
    "ca 24": (lambda: classifier("efficientnet_b0_ca", reduction=24), 5_614_772, None),
}
EXPANDED = [32, 96, 144, 144, 240, 240, 480, 480, 480, 672, 672, 672, 1152, 1152, 1152, 1152]


@pytest.mark.parametrize("name", mostly_slow(SIZES, {"plain", "ca 24"}))  # and CA: test_zoo.py
def test_sizes_of_the_published_networks(name):
    make, parameters, macs = SIZES[name]
    with torch.device("meta"):
        network = make().eval()
        assert sum(p.numel() for p in network.parameters()) == parameters
        if macs is not None:
            with FlopCounterMode(display=False) as counter:
                network(torch.zeros(1, 3, 224, 224))
            assert counter.get_total_flops() == 2 * macs


def test_without_its_attention_the_network_is_as_small_as_published():
    with torch.device("meta"):
        network = classifier("efficientnet_b0")
    own = [m for m in network.modules() if isinstance(m, torchvision.ops.SqueezeExcitation)]
    assert len(own) == 16
    total, gates = (sum(p.numel() for module in part for p in module.parameters()) for part in ([network], own))
    assert total - gates == 4_652_008


def randomise(module):
    """Gives everything that batch normalisations hold a value that shows."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for value in (part.weight.data, part.running_var):
                value.uniform_(0.5, 1.5)
            for value in (part.bias.data, part.running_mean):
                value.normal_(0, 0.2)
    return module


def filled(name, entries):
    """A classifier with converted entries of a checkpoint, every one of them used."""
    network = classifier(name).double().eval()
    converted = network.backbone.convert(entries)
    network.load_state_dict({n if n.startswith("fc.") else f"backbone.{n}": v for n, v in converted.items()})
    return network


@pytest.mark.parametrize(
    "make",
    [torchvision.models.efficientnet_b0, lambda: timm.create_model("efficientnet_b0")],
    ids=["torchvision", "timm"],
)
def test_scores_equal_the_peers_with_its_weights(make):
    peer = randomise(make().double().eval())
    ours = filled("efficientnet_b0", peer.state_dict())
    x = torch.randn(1, 3, 65, 50, dtype=torch.float64)
    with torch.no_grad():
        expected = peer(x)
        assert expected.std() > 1e-3
        torch.testing.assert_close(ours(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("last_conv", [True, False])
def test_features_equal_torchvisions(last_conv):
    peer = randomise(torchvision.models.efficientnet_b0().eval())
    ours = EfficientNet(last_conv=last_conv).eval()
    missing, _ = ours.load_state_dict(peer.state_dict(), strict=False)
    assert missing == []
    y, outputs = torch.randn(1, 3, 75, 61), []
    x = y
    with torch.no_grad():
        for layer in peer.features:
            y = layer(y)
            outputs.append(y)
        for feature, index in zip(ours(x), (2, 3, 5, 8 if last_conv else 7), strict=True):
            torch.testing.assert_close(feature, outputs[index])


@pytest.mark.parametrize("variant", mostly_slow(["b1", "b4", "b7"], {"b4"}))
def test_larger_variants_are_torchvisions(variant):
    with torch.device("meta"):
        ours = EfficientNet(variant, last_conv=True)
        peer = getattr(torchvision.models, f"efficientnet_{variant}")()
    expected = {n: v.shape for n, v in peer.state_dict().items() if not n.startswith("classifier.")}
    assert {n: v.shape for n, v in ours.state_dict().items()} == expected
    assert ours.label == f"EfficientNet-{variant.upper()}"
    assert f"efficientnet_{variant}" in ours.published_weights().url


def test_attention_takes_the_place_of_the_networks_own():
    seen = []

    def factory(channels):
        seen.append(channels)
        return CoordinateAttention(channels)

    backbone = randomise(EfficientNet(attention=factory).eval())
    assert seen == EXPANDED
    assert not any(isinstance(module, torchvision.ops.SqueezeExcitation) for module in backbone.modules())
    block = backbone.features[3][1]
    (expand, bn1, _), (depthwise, bn2, _), replacement, (project, bn3) = block.block
    x = torch.randn(1, 40, 9, 7)
    with torch.no_grad():
        hidden = F.silu(bn2(depthwise(F.silu(bn1(expand(x))))))
        torch.testing.assert_close(block(x), x + bn3(project(replacement.attention(hidden))))


@pytest.mark.parametrize("attention", [CoordinateAttention, SqueezeExcitation])
def test_published_weights_load_beside_replaced_attention(attention, tmp_path, caplog):
    peer, path = torchvision.models.efficientnet_b0(), str(tmp_path / "weights.pth")
    torch.save(peer.state_dict(), path)
    ours = EfficientNet(attention=attention)
    load_weights(ours, path)
    assert torch.equal(ours.features[7][0].block[3][0].weight, peer.features[7][0].block[3][0].weight)
    assert "64 unexpected entries: features.1.0.block.1.fc1" in caplog.text  # the replaced gates are not hidden


def test_dilation_takes_the_place_of_strides():
    with torch.device("meta"):
        backbone = EfficientNet(output_stride=8)
    spatial = [m for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1]
    assert [m.dilation[0] for m in spatial] == [1] * 7 + [2] * 5 + [2] + [4] * 4
    assert all(m.padding[0] == m.dilation[0] * (m.kernel_size[0] // 2) for m in spatial)


def test_dense_features_contain_the_strided_ones():
    class Same(SqueezeExcitation):  # a mean over the map differs between grids
        def forward(self, x):
            return x

    strided = randomise(EfficientNet(attention=Same).double().eval())
    dense = EfficientNet(attention=Same, output_stride=8).double().eval()
    dense.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 65, 97, dtype=torch.float64)
    with torch.no_grad():
        for feature, expected, stride, expected_stride in zip(
            dense(x), strided(x), dense.strides, strided.strides, strict=True
        ):
            step = expected_stride // stride
            torch.testing.assert_close(feature[..., ::step, ::step], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"attention": CoordinateAttention, "output_stride": 8, "last_conv": True}])
def test_odd_sizes(options):
    backbone = EfficientNet(**options).eval()
    for height, width in [(203, 331), (32, 33), (33, 1)]:
        with torch.no_grad():
            features = backbone(torch.randn(1, 3, height, width))
        for feature, channels, stride in zip(features, backbone.channels, backbone.strides, strict=True):
            assert feature.shape == (1, channels, math.ceil(height / stride), math.ceil(width / stride))


@pytest.mark.parametrize("attention", mostly_slow([None, CoordinateAttention], {CoordinateAttention}))
def test_every_parameter_gets_the_same_gradient_with_checkpointing(attention):
    torch.manual_seed(0)
    plain = EfficientNet(attention=attention, last_conv=True).double()
    saving = EfficientNet(attention=attention, last_conv=True, checkpointing=True).double()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for backbone in (plain, saving):
        torch.manual_seed(4)  # of the stochastic depth
        sum(feature.square().mean() for feature in backbone(x)).backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), saving.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in zip(plain.buffers(), saving.buffers(), strict=True))
    plain.zero_grad()
    sum(feature.square().mean() for feature in plain.eval()(x)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in plain.parameters())


def test_frozen_stages_stay_frozen_in_training():
    backbone = EfficientNet(frozen_stages=3).train()
    before = copy.deepcopy(backbone.state_dict())
    sum(feature.mean() for feature in backbone(torch.randn(2, 3, 64, 64))).backward()
    frozen = tuple(f"features.{index}." for index in range(4))
    for name, value in backbone.state_dict(keep_vars=True).items():
        if name.startswith(frozen):
            assert value.grad is None and torch.equal(value, before[name])
        elif name.endswith("running_mean"):
            assert not torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "b8"}, "variant='b8' .*b0, b1"),
        ({"output_stride": 64}, "output_stride=64 .*8, 16 or 32"),
        ({"stochastic_depth": 1.0}, r"stochastic_depth=1.0 .*\[0, 1\)"),
        ({"norms": "none"}, "norms='none'"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        EfficientNet(**options)
