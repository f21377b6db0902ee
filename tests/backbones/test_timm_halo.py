"""timm's halo networks: its sizes, its features under its weights, and images that timm's cannot take."""

import math
from typing import get_args

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import backbones
from attention import BottleneckAttention
from attention.halo import HaloAttention
from backbones import TimmHaloNet
from backbones.timm_halo import Network
from tests.selection import mostly_slow

SIZES = {  # parameters, giga multiply-accumulates at 256 x 256, without classifier
    "halonet26t": (12_480_288, 3.1728, 10_431_288),
    "halonet50ts": (22_733_280, 5.2695, 20_684_280),
    "sehalonet33ts": (13_691_712, 3.5304, 12_410_712),
    "eca_halonext26ts": (10_756_885, 2.4201, 8_707_885),
    "halo2botnet50ts": (22_635_360, 4.9914, 20_586_360),
}
TINY = "eca_halonext26ts"


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", mostly_slow(SIZES, {"halo2botnet50ts"}))  # and halonet26t: test_zoo.py
def test_sizes_of_the_published_networks(name):
    """Fewer operations than timm's by up to 0.12 %: table entries that never occur are not multiplied."""
    count, giga, without_classifier = SIZES[name]
    with torch.device("meta"):
        network = backbones.classifier(name).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, 256, 256))
    assert (parameters(network), parameters(network.backbone)) == (count, without_classifier)
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga, rel=1.2e-3)
    figures = backbones.published_figures()[name]
    assert (figures.parameters, figures.size) == (count, 256)
    assert figures.macs / 1e9 == pytest.approx(giga, rel=1e-4)


@pytest.mark.parametrize("name", mostly_slow(get_args(Network), {TINY, "halo2botnet50ts_256", "haloregnetz_b"}))
def test_all_attention_is_ours(name):
    with torch.device("meta"):
        backbone, theirs = TimmHaloNet(name), timm.create_model(name, num_classes=0)
    names = {module_name for module_name, module in backbone.named_modules() if isinstance(module, HaloAttention)}
    names |= {
        module_name for module_name, module in backbone.named_modules() if isinstance(module, BottleneckAttention)
    }
    assert names == {f"host.{name}" for name, _ in theirs.named_modules() if name.endswith(".self_attn")}
    state = {f"host.{name}": tuple(value.shape) for name, value in theirs.state_dict().items()}
    assert state == {name: tuple(value.shape) for name, value in backbone.state_dict().items()}


def randomised(network):
    """A network in which every parameter and statistic shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
            elif name.endswith("_rel"):
                value.copy_(torch.randn(value.shape, generator=generator))
            elif value.is_floating_point() and value.ndim < 2:
                value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return network.eval()


@pytest.mark.parametrize(
    ("name", "network", "size"),
    [
        ("halonet26t", "halonet26t", (256, 512)),
        ("halo2botnet50ts", "halo2botnet50ts_256", (256, 256)),
        pytest.param("halonet50ts", "halonet50ts", (256, 256), marks=pytest.mark.slow),
        pytest.param("sehalonet33ts", "sehalonet33ts", (256, 256), marks=pytest.mark.slow),
        pytest.param("eca_halonext26ts", "eca_halonext26ts", (256, 256), marks=pytest.mark.slow),
    ],
)
def test_timm_networks_give_the_same_scores(name, network, size):
    torch.manual_seed(0)
    theirs = randomised(timm.create_model(network))
    ours = backbones.classifier(name).eval()
    state = ours.backbone.convert(theirs.state_dict())
    head = {key.removeprefix("fc."): state.pop(key) for key in ("fc.weight", "fc.bias")}
    ours.backbone.load_state_dict(state)
    ours.fc.load_state_dict(head)
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = theirs(x)
        assert expected.std() > 1e-2
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("network", "side"), [("haloregnetz_b", 224), ("botnet26t_256", 256)])
def test_timm_networks_give_the_same_features(network, side):
    torch.manual_seed(0)
    theirs = randomised(timm.create_model(network, features_only=True, out_indices=(1, 2, 3, 4)))
    ours = TimmHaloNet(network).eval()
    ours.load_state_dict(ours.convert(theirs.state_dict()))
    assert ours.channels == tuple(theirs.feature_info.channels())
    assert ours.strides == tuple(theirs.feature_info.reduction())
    x = torch.randn(1, 3, side, side)
    with torch.no_grad():
        for feature, expected in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "network",
    mostly_slow(["halonet26t", "sehalonet33ts", "halo2botnet50ts_256", "haloregnetz_b"], {"halo2botnet50ts_256"}),
)
def test_every_size(network):
    with torch.device("meta"):
        backbone = TimmHaloNet(network).eval()
        for height, width in [(203, 331), (32, 33), (33, 1), (600, 40)]:
            features = backbone(torch.zeros(1, 3, height, width))
            for feature, channels, stride in zip(features, backbone.channels, backbone.strides, strict=True):
                assert feature.shape == (1, channels, math.ceil(height / stride), math.ceil(width / stride))


def test_maps_that_blocks_do_not_divide_count_as_extended_by_zeros():
    """The part of a feature whose windows see the map alone is that of the map extended by zeros."""
    torch.manual_seed(0)
    block = randomised(timm.create_model(TINY)).stages[3][1].eval()
    backbone = TimmHaloNet(TINY).eval()
    backbone.load_state_dict(backbone.convert({f"stages.3.1.{k}": v for k, v in block.state_dict().items()}), False)
    x = torch.randn(1, 512, 5, 11)
    with torch.no_grad():
        expected = block.self_attn(nn.functional.pad(x, (0, 5, 0, 3)))[..., :5, :11]
        torch.testing.assert_close(backbone.host.stages[3][1].self_attn(x), expected, rtol=1e-5, atol=1e-5)


def test_every_parameter_gets_the_same_gradient_with_checkpointing():
    torch.manual_seed(0)
    networks = [TimmHaloNet(TINY, checkpointing=checkpointing, drop_path=0.1) for checkpointing in (False, True)]
    networks[1].load_state_dict(randomised(networks[0]).state_dict())
    for network in networks:
        network.train()
        torch.manual_seed(1)
        x = torch.randn(2, 3, 64, 96)
        sum(feature.square().mean() for feature in network(x)).backward()
    plain, spared = networks
    assert [name for name, p in plain.named_parameters() if p.grad is None or not p.grad.any()] == []
    for (name, p), q in zip(plain.named_parameters(), spared.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)
    for (name, p), q in zip(plain.named_buffers(), spared.buffers(), strict=True):
        torch.testing.assert_close(p, q, msg=name)


def test_frozen_stages_stay_frozen_in_training():
    backbone = TimmHaloNet("sehalonet33ts", frozen_stages=2, norms="frozen").train()
    assert len(backbone.layer_groups()) == 1 + 2 + 3 + 3 + 2 + 1
    assert [len(stage) for stage in backbone.stages()] == [1, 2, 3, 3, 3]
    assert not any(module.training for module in backbone.modules() if isinstance(module, nn.BatchNorm2d))
    norms = tuple(f"{name}." for name, module in backbone.named_modules() if isinstance(module, nn.BatchNorm2d))
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad != name.startswith(("host.stem.", "host.stages.0.", *norms)), name
    assert backbone.host.stages[1].training and not backbone.host.stages[0][1].training


@pytest.mark.slow
def test_compiled_networks_agree():
    torch.manual_seed(0)
    network = randomised(TimmHaloNet(TINY)).double()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    x = torch.randn(1, 3, 70, 45, dtype=torch.float64)
    with torch.no_grad():
        for feature, value in zip(compiled(x), network(x), strict=True):
            torch.testing.assert_close(feature, value, rtol=1e-9, atol=1e-9)


def test_files_of_timm_load(tmp_path, caplog):
    path = str(tmp_path / "weights.pth")
    theirs = timm.create_model(TINY, num_classes=7)
    torch.save(theirs.state_dict(), path)
    backbone = TimmHaloNet(TINY, weights=path)
    state = theirs.state_dict()
    assert all(torch.equal(value, state[name.removeprefix("host.")]) for name, value in backbone.state_dict().items())
    assert caplog.records == []
    with pytest.raises(ValueError, match=r"lacks \d+ of|other shapes"):
        TimmHaloNet("halonet26t", weights=path)


def test_imagenet_is_the_weights_of_that_name(monkeypatch):
    asked = []
    monkeypatch.setattr("backbones.weight_sources._of_timm", lambda weights: asked.append(weights))
    with torch.device("meta"):
        for build, weights in (
            (backbones.halo2botnet50ts, "imagenet"),
            (backbones.halonet26t, "halonet26t.a1h_in1k"),
            (lambda weights: backbones.classifier("halonet50ts", weights=weights), "imagenet"),
        ):
            with pytest.raises(ValueError, match="holds no state dict"):
                build(weights=weights)
    assert asked == ["halo2botnet50ts_256", "halonet26t.a1h_in1k", "halonet50ts"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "resnet50"}, r"network='resnet50' is unknown; choose one of halonet26t, "),
        ({"drop_path": -0.1}, r"drop_path=-0.1 is no probability"),
        ({"norms": "no"}, r"norms='no'"),
        ({"frozen_stages": 6}, r"frozen stages=6 .*5 \(all\)"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named_with_a_remedy(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        TimmHaloNet(**options)
