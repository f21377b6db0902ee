"""MobileNetV1: sizes of the published networks and the equation of its blocks."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from attention import CBAM, SqueezeExcitation
from backbones import Classifier, MobileNetV1
from backbones.zoo.registry import classifier
from tests.selection import mostly_slow

TABLE = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)] + [(512, 1)] * 5 + [(1024, 2), (1024, 1)]


def cbam(channels):
    return CBAM(channels, 2)


SIZES = {
    "plain": (lambda: classifier("mobilenet_v1"), 4_231_976, 568_740_352),
    "cbam": (lambda: classifier("cbam_mobilenet_v1"), 5_074_714, 574_642_408),
    "se": (lambda: Classifier(MobileNetV1(attention=SqueezeExcitation)), 5_072_114, 569_568_896),
    "se pointwise": (
        lambda: Classifier(MobileNetV1(attention=SqueezeExcitation, attention_places="pointwise")),
        4_718_044,
        569_220_096,
    ),
    "cbam pointwise": (
        lambda: Classifier(MobileNetV1(attention=CBAM, attention_places="pointwise")),
        4_719_344,
        571_822_324,
    ),
    "0.7": (lambda: classifier("mobilenet_v1", width=0.7), 2_298_747, 282_957_078),
    "0.7 se": (lambda: Classifier(MobileNetV1(0.7, SqueezeExcitation)), 2_704_594, 283_354_834),
    "0.7 cbam": (lambda: classifier("cbam_mobilenet_v1", width=0.7), 2_707_194, 287_997_558),
}


@pytest.mark.parametrize("name", mostly_slow(SIZES, {"cbam", "se pointwise"}))
def test_sizes_of_the_published_networks(name):
    make, parameters, macs = SIZES[name]
    with torch.device("meta"):
        network = make().eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, 224, 224))
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert counter.get_total_flops() == 2 * macs


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


def reference(backbone, x):
    """Output of every block from the published table."""

    def unit(x, sequence, stride, groups=1):
        conv, norm = sequence[0], sequence[1]
        x = F.conv2d(x, conv.weight, None, stride, conv.weight.shape[-1] // 2, 1, groups)
        x = (x - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + 1e-5).sqrt()
        return (x * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0)

    x = unit(x, backbone.stem, 2)
    outputs = []
    for block, (_, stride) in zip(backbone.blocks, TABLE, strict=True):
        x = block.depthwise_attention(unit(x, block.depthwise, stride, x.shape[1]))
        x = block.pointwise_attention(unit(x, block.pointwise, 1))
        outputs.append(x)
    return [outputs[number - 1] for number in (3, 5, 11, 13)]


@pytest.mark.parametrize("options", [{}, {"attention": cbam}, {"attention": cbam, "attention_places": "pointwise"}])
def test_features_follow_the_published_table(options):
    backbone = randomise(MobileNetV1(0.25, **options).double().eval())
    x = torch.randn(1, 3, 75, 61, dtype=torch.float64)
    with torch.no_grad():
        for feature, expected in zip(backbone(x), reference(backbone, x), strict=True):
            torch.testing.assert_close(feature, expected, rtol=1e-9, atol=1e-9)
    assert [block.pointwise[0].out_channels for block in backbone.blocks] == [channels // 4 for channels, _ in TABLE]


@pytest.mark.parametrize(("places", "count"), [("both", 26), ("pointwise", 13)])
def test_number_of_modules(places, count):
    with torch.device("meta"):
        backbone = MobileNetV1(attention=CBAM, attention_places=places)
    assert sum(isinstance(module, CBAM) for module in backbone.modules()) == count


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dense_features_contain_the_strided_ones(output_stride):
    strided = randomise(MobileNetV1(0.25).double().eval())
    dense = MobileNetV1(0.25, output_stride=output_stride).double().eval()
    dense.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 97, 131, dtype=torch.float64)
    with torch.no_grad():
        for feature, expected, stride, expected_stride in zip(
            dense(x), strided(x), dense.strides, strided.strides, strict=True
        ):
            step = expected_stride // stride
            torch.testing.assert_close(feature[..., ::step, ::step], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"attention": cbam, "output_stride": 8}])
def test_odd_sizes(options):
    backbone = MobileNetV1(0.25, **options).eval()
    for height, width in [(203, 331), (32, 33), (33, 1)]:
        with torch.no_grad():
            features = backbone(torch.randn(1, 3, height, width))
        for feature, channels, stride in zip(features, backbone.channels, backbone.strides, strict=True):
            assert feature.shape == (1, channels, math.ceil(height / stride), math.ceil(width / stride))


def test_every_parameter_gets_the_same_gradient_with_checkpointing():
    torch.manual_seed(0)
    plain = MobileNetV1(0.25, cbam).double()
    for module in plain.modules():  # the gates' normalisations start at zero, which stops gradients to their kernels
        if isinstance(module, CBAM):
            nn.init.ones_(module.spatial.bn.weight)
    saving = MobileNetV1(0.25, cbam, checkpointing=True).double()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    for backbone in (plain, saving):
        sum(feature.square().mean() for feature in backbone(x)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in plain.parameters())
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), saving.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in zip(plain.buffers(), saving.buffers(), strict=True))


def test_frozen_stages_stay_frozen_in_training():
    backbone = MobileNetV1(0.25, cbam, frozen_stages=3).train()
    before = copy.deepcopy(backbone.state_dict())
    sum(feature.mean() for feature in backbone(torch.randn(2, 3, 64, 64))).backward()
    frozen = ("stem.", *(f"blocks.{index}." for index in range(5)))
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
        ({"width": 0.01}, "width=0.01 .*positive"),
        ({"output_stride": 64}, "output_stride=64 .*8, 16 or 32"),
        ({"attention_places": "depthwise"}, "attention_places='depthwise' .*both, pointwise"),
        ({"weights": "imagenet"}, "'imagenet': no published weights for this MobileNetV1"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        MobileNetV1(**options)
