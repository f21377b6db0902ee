"""MobileNetV2: torchvision's network without attention, and the inverted residual's equation with it."""

import pytest
import torch
import torchvision
from torch.nn import functional as F

from attention import CoordinateAttention, SqueezeExcitation
from backbones import MobileNetV2


def body(state):
    return {name: value for name, value in state.items() if not name.startswith("classifier.")}


@pytest.mark.parametrize("width", [1.0, 0.75, 0.35, 1.4])
def test_names_and_shapes_are_torchvisions(width):
    with torch.device("meta"):
        peer = torchvision.models.mobilenet_v2(width_mult=width)
        ours = MobileNetV2(width, last_conv=True)
        short = MobileNetV2(width)
        attended = MobileNetV2(width, CoordinateAttention, last_conv=True)
    expected = {name: value.shape for name, value in body(peer.state_dict()).items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == expected
    assert {n: v.shape for n, v in attended.state_dict().items() if ".attention." not in n} == expected
    without = {name: shape for name, shape in expected.items() if not name.startswith("features.18.")}
    assert {name: value.shape for name, value in short.state_dict().items()} == without


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_features_equal_torchvisions_with_copied_weights(training):
    peer = torchvision.models.mobilenet_v2().train(training)
    ours = MobileNetV2(last_conv=True, tap_expansion=True).train(training)
    ours.load_state_dict(body(peer.state_dict()))
    short = MobileNetV2().train(training)
    short.load_state_dict({n: v for n, v in body(peer.state_dict()).items() if not n.startswith("features.18.")})
    x = torch.randn(2, 3, 75, 61)
    with torch.no_grad():
        outputs, y = [], x
        for index, layer in enumerate(peer.features):
            if index == 14:
                tapped = layer.conv[0](y)
            y = layer(y)
            outputs.append(y)
        for feature, expected in zip(ours(x), [outputs[3], outputs[6], tapped, outputs[18]], strict=True):
            torch.testing.assert_close(feature, expected)
        for feature, expected in zip(short(x), [outputs[3], outputs[6], outputs[13], outputs[17]], strict=True):
            torch.testing.assert_close(feature, expected)


def test_attention_refines_the_hidden_map_before_the_projection():
    torch.manual_seed(0)
    backbone = MobileNetV2(attention=lambda c: SqueezeExcitation(c, 24)).eval()
    for index in (2, 3):  # without and with shortcut
        block = backbone.features[index]
        (expand, bn1, _), (depthwise, bn2, _), project, bn3 = block.conv
        x = torch.randn(1, expand.in_channels, 9, 7)
        hidden = F.relu6(bn2(depthwise(F.relu6(bn1(expand(x))))))
        expected = bn3(project(block.attention(hidden)))
        torch.testing.assert_close(block(x), expected if index == 2 else x + expected)


def test_sixteen_blocks_receive_attention_on_their_hidden_channels():
    seen = []

    def factory(channels):
        seen.append(channels)
        return CoordinateAttention(channels)

    with torch.device("meta"):
        backbone = MobileNetV2(attention=factory)
    assert seen == [96, 144, 144, 192, 192, 192] + [384] * 4 + [576] * 3 + [960] * 3
    assert not isinstance(backbone.features[1].attention, CoordinateAttention)


@pytest.mark.parametrize(
    ("options", "channels", "strides"),
    [
        ({}, (24, 32, 96, 320), (4, 8, 16, 32)),
        ({"last_conv": True}, (24, 32, 96, 1280), (4, 8, 16, 32)),
        ({"tap_expansion": True}, (24, 32, 576, 320), (4, 8, 16, 32)),
        ({"output_stride": 8, "width": 1.4, "last_conv": True}, (32, 48, 136, 1792), (4, 8, 8, 8)),
        ({"output_stride": 16, "width": 0.5}, (16, 16, 48, 160), (4, 8, 16, 16)),
    ],
)
def test_channels_and_strides(options, channels, strides):
    with torch.device("meta"):
        backbone = MobileNetV2(**options)
    assert (backbone.channels, backbone.strides) == (channels, strides)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0.0}, "width=0.0 .*positive"),
        ({"output_stride": 64}, "output_stride=64 .*8, 16 or 32"),
        ({"width": 0.5, "weights": "imagenet"}, "'imagenet': no published weights for this MobileNetV2"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        MobileNetV2(**options)
