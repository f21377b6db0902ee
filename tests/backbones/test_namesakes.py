"""Weights of timm's networks that fit a host: refused exactly where the two compute something else."""

import logging
from functools import partial

import pytest
import timm
import torch

import backbones.in_timm  # noqa: F401 - registers this package's networks there
from attention import SelectiveKernel, SqueezeExcitation
from backbones import EfficientNet, MobileNetV2, ResNet, Swin, load_weights
from backbones import timm as timm_features
from backbones.namesakes import check_namesake

_create = timm.create_model


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("tf_efficientnet_b0", EfficientNet),
        ("tf_efficientnet_b0_ns", EfficientNet),  # an old name
        ("efficientnet_b5", partial(EfficientNet, "b5")),
        ("resnetaa50", ResNet),
        ("resnetblur50", ResNet),
        ("resnetblur18", partial(ResNet, 18, SqueezeExcitation)),
        ("swin_s3_tiny_224", Swin),
    ],
)
def test_namesakes_are_refused_by_name(monkeypatch, name, build):
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: _create(name))
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match=rf"weights='{name}': timm's \w+ does not compute") as error,
    ):
        build(weights=name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("resnet18", partial(ResNet, 18, SqueezeExcitation)),
        ("mobilenetv2_050", partial(MobileNetV2, 0.5)),
        ("efficientnet_b0", EfficientNet),
        ("swin_tiny_patch4_window7_224", Swin),
    ],
)
def test_the_same_networks_are_not(monkeypatch, name, build):
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: _create(name))
    with torch.device("meta"):
        build(weights=name)


@pytest.fixture
def file(tmp_path):
    """Writes a checkpoint of a ResNet-18 as training scripts do, under the name of some network."""
    with torch.device("meta"):
        entries = {name: torch.zeros(value.shape) for name, value in _create("resnet18").state_dict().items()}

    def write(architecture, name="weights.pth"):
        content = {"arch": architecture, "state_dict": entries}
        torch.save(content if architecture else content["state_dict"], tmp_path / name)
        return str(tmp_path / name)

    return write


def test_checkpoints_of_training_scripts_tell_their_network(file, caplog):
    with torch.device("meta"):
        host, efficientnet = ResNet(18), EfficientNet()
    with pytest.raises(ValueError, match=r"timm's resnetblur18 does not compute what ResNet does.*take resnet50"):
        load_weights(host, file("resnetblur18"))
    # The same network; one of no library; one of this package's, which timm knows as well.
    for architecture in ("resnet18", "gluon_resnet18_v1b", "resnet", "se_resnet50"):
        load_weights(host, file(architecture))
    check_namesake(efficientnet, "efficientnet_b7", ["features.0.0.weight"], "torchvision's layout")
    assert caplog.records == []


def test_the_name_of_a_file_is_a_hint(file, caplog):
    with torch.device("meta"):
        host = ResNet(18)
    load_weights(host, file(None, "resnet18_blurred.pth"))
    assert caplog.records == []
    load_weights(host, file(None, "resnetblur18-84f4748f.pth"))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "the name is that of timm's resnetblur18, which does not compute what ResNet does" in caplog.text


def test_a_network_that_timm_builds_warns_of_other_names(file, caplog):
    with torch.device("meta"):
        host = timm_features("resnet18")
    for architecture in ("resnet18", "resnet18.a1_in1k", "mine"):
        load_weights(host, file(architecture))
    assert caplog.records == []
    load_weights(host, file("resnetblur18"))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "weights of timm's resnetblur18 in its resnet18, which may compute something else" in caplog.text


HOSTS = {
    **{f"resnet {depth}": partial(ResNet, depth) for depth in (18, 34, 50)},
    **{f"se {depth}": partial(ResNet, depth, SqueezeExcitation) for depth in (18, 50)},
    "v1c": partial(ResNet, 50, variant="v1c"),
    **{f"v1d {depth}": partial(ResNet, depth, variant="v1d") for depth in (18, 50)},
    "resnext": partial(ResNet, 50, groups=32, width_per_group=4),
    "wide": partial(ResNet, 50, width_per_group=128),
    "sk": partial(ResNet, 50, mixer=SelectiveKernel, mixer_norm=False, groups=32, width_per_group=4),
    **{f"b{i}": partial(EfficientNet, f"b{i}", last_conv=True) for i in (0, 1, 2, 3, 4, 5)},
    **{f"v2 {width}": partial(MobileNetV2, width, last_conv=True) for width in (0.35, 0.5, 0.75, 1.0, 1.4)},
    "swin t": partial(Swin, out_norms="last"),
    "swin s": partial(Swin, 96, (2, 2, 18, 2), out_norms="last"),
}
PATTERNS = ("*resne*50*", "*resne*18", "*resnet*34", "sk*", "*efficientnet_b[0-5]*", "*mobilenetv2*", "swin_[st]*")


def fits(host, peer):
    """Whether the converted entries of timm's network have the host's names and shapes, but for tables of windows."""
    try:
        converted = {n: v.shape for n, v in host.convert(peer.state_dict()).items() if not n.startswith("fc.")}
    except (ValueError, IndexError):  # a known other network; no network of that layout
        return False
    own = {n: v.shape for n, v in host.state_dict().items()}
    tables = {n for n in own if n.endswith("_bias_table")}
    return own.keys() == converted.keys() and all(own[n] == converted[n] for n in own.keys() - tables)


def randomised(network):
    """Weights and statistics that make every normalisation, and its epsilon, show in the output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(0.01 + 0.02 * torch.rand(value.shape, generator=generator))
            elif value.is_floating_point() and value.ndim < 2:
                value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return network.eval()


def computes_the_same(build, name):
    torch.manual_seed(0)
    theirs, ours = randomised(_create(name).double()), build().double().eval()
    converted = ours.convert(theirs.state_dict())
    own = ours.state_dict()
    loaded = {
        n: v if v.shape == own[n].shape else ours.resize(n, v, own[n].shape) for n, v in converted.items() if n in own
    }
    ours.load_state_dict(loaded)
    side = 224 if isinstance(ours, Swin) else 66  # even: TensorFlow's padding differs there
    x = torch.randn(1, 3, side, side, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs.forward_features(x)
        found = ours(x)[-1]
    found = found.permute(0, 2, 3, 1) if isinstance(ours, Swin) else found
    return found.shape == expected.shape and torch.allclose(
        found, expected, rtol=1e-6, atol=1e-6 * float(expected.std())
    )


@pytest.mark.slow
def test_exactly_the_networks_that_compute_the_same_are_accepted():
    """All of timm's that fit the sizes above; larger ones of a family are the same code."""
    accepted, refused = set(), set()
    with torch.device("meta"):
        hosts = {key: build() for key, build in HOSTS.items()}
    for name in sorted({name for pattern in PATTERNS for name in timm.list_models(pattern)}):
        if not timm.model_entrypoint(name).__module__.startswith("timm."):
            continue
        with torch.device("meta"):
            peer = _create(name)
            fitting = [key for key, host in hosts.items() if fits(host, peer)]
        for key in fitting:
            try:
                check_namesake(hosts[key], name, peer.state_dict(), name)
                accepted.add(name)
            except ValueError:
                refused.add(name)
            assert computes_the_same(HOSTS[key], name) == (name in accepted), (name, key)
    assert {"resnetaa50", "resnetblur18", "resnetblur50", "tf_efficientnet_b0", "efficientnet_b5"} <= refused
    assert {"resnet50", "seresnet50", "skresnext50_32x4d", "mobilenetv2_100", "efficientnet_b0"} <= accepted
    assert "swin_s3_tiny_224" in refused and len(accepted) >= 15
