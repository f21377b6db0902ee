"""MobileNeXt: sizes of the published networks, the equation of every block, and the positions of its attention."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from attention import CoordinateAttention, SqueezeExcitation
from backbones import Classifier, MobileNeXt
from backbones.zoo.registry import classifier

KINDS = "ADCDDCDDBDDDCDDDBDDD"
WIDTHS = [16, 32, 32, 32, 32, 48, 48, 48, 64, 64, 64, 64, 96, 96, 96, 96, 160, 160, 160, 208]
CHANNELS = [32, 96, 144] + [192] * 3 + [288] * 3 + [384] * 4 + [576] * 4 + [960] * 3 + [1280]
POSITIONS = ["first", "first_any", "last", "identity", "output"]


def se(reduction):
    return partial(SqueezeExcitation, reduction=reduction)


SIZES = {
    "plain": (lambda: classifier("mobilenext"), 3_535_416, 311_342_592),
    "1.4": (lambda: classifier("mobilenext", width=1.4), 6_126_168, None),
    "0.75": (lambda: classifier("mobilenext", width=0.75), 2_766_168, None),
    "0.5": (lambda: classifier("mobilenext", width=0.5), 2_152_304, None),
    "0.35": (lambda: classifier("mobilenext", width=0.35), 1_913_976, None),
    "ca": (lambda: classifier("mobilenext_ca"), 3_971_626, 316_327_936),
    "ca first_any": (lambda: classifier("mobilenext_ca", ca_position="first_any"), 4_017_331, 316_935_424),
    "ca last": (lambda: classifier("mobilenext_ca", ca_position="last"), 4_088_113, 317_705_984),
    "ca identity": (lambda: classifier("mobilenext_ca", ca_position="identity"), 3_879_840, None),
    "ca output": (lambda: classifier("mobilenext_ca", ca_position="output"), 4_191_151, None),
    "se 24": (lambda: Classifier(MobileNeXt(attention=se(24))), 3_913_557, None),
    "se 32 last": (lambda: Classifier(MobileNeXt(attention=se(32), attention_position="last")), 3_896_396, None),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_the_published_networks(name):
    make, parameters, macs = SIZES[name]
    with torch.device("meta"):
        network = make().eval()
        assert sum(p.numel() for p in network.parameters()) == parameters
        if macs is not None:
            with FlopCounterMode(display=False) as counter:
                network(torch.zeros(1, 3, 224, 224))
            assert counter.get_total_flops() == 2 * macs


def test_bottlenecks_and_channels_are_the_published_ones():
    with torch.device("meta"):
        blocks = list(MobileNeXt().features)[1:]
    reduce = [next(m for m in block.conv if isinstance(m, nn.Conv2d) and m.groups == 1) for block in blocks]
    assert [layer.out_channels for layer in reduce] == WIDTHS
    assert [layer.in_channels for layer in reduce] == CHANNELS[:-1]
    assert [block.out_channels for block in blocks] == CHANNELS[1:]


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


def reference(backbone, x, position=None):
    """Output of every block from the published table, layer by layer, read from the state dict."""
    state = backbone.state_dict()

    def layer(x, name, index, stride=1, active=False):
        weight = state[f"{name}.{index}.weight"]
        mean, variance, gain, bias = (
            state[f"{name}.{index + 1}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        groups = len(weight) if weight.shape[1] == 1 else 1
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)
        x = F.batch_norm(x, mean, variance, gain, bias)
        return x.clamp(0, 6) if active else x

    x = layer(x, "features.0", 0, 2, active=True)
    outputs = []
    for number, kind in enumerate(KINDS, start=1):
        name, y, index = f"features.{number}.conv", x, 0
        attention = backbone.features[number].attention
        stride = 2 if kind == "C" or number == 1 else 1
        residual = kind == "D" and number not in (2, 20)
        if kind in "AD":
            y, index = layer(y, name, 0, active=True), 3
            if position in ("first", "first_any") or (position == "identity" and residual):
                y = attention(y)
        y = layer(y, name, index)
        y = layer(y, name, index + 2, active=True)
        if kind in "ACD":
            y = layer(y, name, index + 5, stride)
            if position == "last" or (position == "first_any" and kind == "C"):
                y = attention(y)
        x = x + y if residual else y
        x = attention(x) if position == "output" else x
        outputs.append(x)
    return outputs


@pytest.mark.parametrize("position", [None, *POSITIONS])
def test_features_follow_the_published_table(position):
    options = {"attention": se(4), "attention_position": position} if position else {}
    backbone = randomise(MobileNeXt(0.25, **options).double().eval())
    x = torch.randn(1, 3, 75, 61, dtype=torch.float64)
    with torch.no_grad():
        outputs = reference(backbone, x, position)
        for feature, number in zip(backbone(x), (2, 5, 12, 20), strict=True):
            torch.testing.assert_close(feature, outputs[number - 1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("position", "count"), zip(POSITIONS, (15, 18, 18, 12, 20), strict=True))
def test_number_of_modules(position, count):
    with torch.device("meta"):
        backbone = MobileNeXt(attention=CoordinateAttention, attention_position=position)
    assert sum(isinstance(module, CoordinateAttention) for module in backbone.modules()) == count


def test_names_are_those_of_the_authors():
    with torch.device("meta"):
        names = set(MobileNeXt().state_dict())
    suffixes = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    convolutions = {"A": (0, 3, 5, 8), "B": (0, 2), "C": (0, 2, 5), "D": (0, 3, 5, 8)}
    expected = {"features.0.0.weight", *(f"features.0.1.{suffix}" for suffix in suffixes)}
    for number, kind in enumerate(KINDS, start=1):
        for index in convolutions[kind]:
            expected.add(f"features.{number}.conv.{index}.weight")
            expected |= {f"features.{number}.conv.{index + 1}.{suffix}" for suffix in suffixes}
    assert names == expected


def test_the_authors_checkpoint_fills_a_classifier():
    torch.manual_seed(0)
    source = classifier("mobilenext", 5, width=0.25)
    rename = {"fc.weight": "classifier.1.weight", "fc.bias": "classifier.1.bias"}
    theirs = {rename.get(name, name.removeprefix("backbone.")): v for name, v in source.state_dict().items()}
    converted = source.backbone.convert(theirs)
    target = classifier("mobilenext", 5, width=0.25)
    target.load_state_dict({n if n.startswith("fc.") else f"backbone.{n}": v for n, v in converted.items()})
    x = torch.randn(1, 3, 40, 33)
    assert torch.equal(target.eval()(x), source.eval()(x))


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dense_features_contain_the_strided_ones(output_stride):
    strided = randomise(MobileNeXt(0.25).double().eval())
    dense = MobileNeXt(0.25, output_stride=output_stride).double().eval()
    dense.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 97, 131, dtype=torch.float64)
    with torch.no_grad():
        for feature, expected, stride, expected_stride in zip(
            dense(x), strided(x), dense.strides, strided.strides, strict=True
        ):
            step = expected_stride // stride
            torch.testing.assert_close(feature[..., ::step, ::step], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"attention": CoordinateAttention, "output_stride": 8}])
def test_odd_sizes(options):
    backbone = MobileNeXt(0.25, **options).eval()
    for height, width in [(203, 331), (32, 33), (33, 1)]:
        with torch.no_grad():
            features = backbone(torch.randn(1, 3, height, width))
        for feature, channels, stride in zip(features, backbone.channels, backbone.strides, strict=True):
            assert feature.shape == (1, channels, math.ceil(height / stride), math.ceil(width / stride))


@pytest.mark.parametrize("position", POSITIONS)
def test_every_parameter_gets_the_same_gradient_with_checkpointing(position):
    torch.manual_seed(0)
    plain = MobileNeXt(0.25, CoordinateAttention, position).double()
    saving = MobileNeXt(0.25, CoordinateAttention, position, checkpointing=True).double()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    for backbone in (plain, saving):
        sum(feature.square().mean() for feature in backbone(x)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in plain.parameters())
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), saving.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in zip(plain.buffers(), saving.buffers(), strict=True))


def test_frozen_stages_stay_frozen_in_training():
    backbone = MobileNeXt(0.25, CoordinateAttention, frozen_stages=3).train()
    before = copy.deepcopy(backbone.state_dict())
    sum(feature.mean() for feature in backbone(torch.randn(2, 3, 64, 64))).backward()
    frozen = tuple(f"features.{index}." for index in range(6))
    for name, value in backbone.state_dict(keep_vars=True).items():
        if name.startswith(backbone.inserted_prefixes()):  # published weights lack them: they learn everywhere
            assert not value.requires_grad or value.grad is not None
        elif name.startswith(frozen):
            assert value.grad is None and torch.equal(value, before[name])
        elif name.endswith("running_mean"):
            assert not torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0.0}, "width=0.0 .*positive"),
        ({"output_stride": 64}, "output_stride=64 .*8, 16 or 32"),
        ({"attention_position": "middle"}, "attention_position='middle' .*first, first_any, last"),
        ({"norms": "none"}, "norms='none'"),
        ({"weights": "imagenet"}, "'imagenet': no published weights for this MobileNeXt"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        MobileNeXt(**options)


@pytest.mark.parametrize("position", [None, *POSITIONS])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_taps_inside_blocks(position, checkpointing):
    """Third map inside block 13, fourth inside block 20, both behind the expansion; the last one as before."""
    torch.manual_seed(0)
    attention = {} if position is None else {"attention": CoordinateAttention, "attention_position": position}
    plain, tapped = (MobileNeXt(0.25, **attention, tap_expansion=tap).eval() for tap in (False, True))
    tapped.load_state_dict(plain.state_dict())
    tapped.checkpointing = checkpointing
    assert tapped.strides == (4, 8, 16, 32, 32)
    assert tapped.channels == (*plain.channels[:2], plain.features[13].out_channels, 1280, 1280)
    seen = []
    for block, layer in ((13, 4), (20, 7)):
        plain.features[block].conv[layer].register_forward_hook(lambda _, __, out: seen.append(out.clone()))
    x = torch.randn(1, 3, 70, 45)
    expected = plain(x)
    for found, wanted in zip(tapped(x), [*expected[:2], *seen, expected[3]], strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("maps", [(1,), (2,), (1, 2), (2, 3), (2, 3, 4), (0, 4)])
def test_what_stands_behind_a_tap_that_is_read_last_is_left_out(maps):
    whole = MobileNeXt(0.25, CoordinateAttention, "last", tap_expansion=True).eval()
    part = copy.deepcopy(whole)
    part.use_maps(maps)
    x = torch.randn(2, 3, 64, 64)
    found, expected = part(x), whole(x)
    assert all(torch.equal(one, expected[number]) for one, number in zip(found, maps, strict=True))
    sum(feature.square().mean() for feature in found).backward()
    assert [name for name, parameter in part.named_parameters() if parameter.grad is None] == []
