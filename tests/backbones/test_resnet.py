"""ResNet: torchvision's network without attention, and the blocks' equations with it."""

import pytest
import timm
import torch
import torchvision

from attention import CBAM, SqueezeExcitation
from backbones import ResNet
from tests.selection import mostly_slow


def body(state):
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


@pytest.mark.parametrize("depth", mostly_slow([18, 34, 50, 101, 152], {18, 34, 50}))
def test_names_and_shapes_are_torchvisions(depth):
    with torch.device("meta"):
        peer = torchvision.models.get_model(f"resnet{depth}")
        ours = ResNet(depth)
        attended = ResNet(depth, CBAM)
    expected = {name: value.shape for name, value in body(peer.state_dict()).items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == expected
    host = {name: value.shape for name, value in attended.state_dict().items() if ".attention." not in name}
    assert host == expected


@pytest.mark.parametrize(
    ("depth", "training"),
    [(18, True), (50, False), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((18, False), (50, True)))],
)
def test_features_equal_torchvisions_with_copied_weights(depth, training):
    peer = torchvision.models.get_model(f"resnet{depth}").train(training)
    ours = ResNet(depth).train(training)
    ours.load_state_dict(body(peer.state_dict()))
    x = torch.randn(2, 3, 75, 61)
    with torch.no_grad():
        y = peer.maxpool(peer.relu(peer.bn1(peer.conv1(x))))
        for feature, stage in zip(ours(x), (peer.layer1, peer.layer2, peer.layer3, peer.layer4), strict=True):
            y = stage(y)
            assert torch.equal(feature, y)


@pytest.mark.parametrize(
    ("depth", "variant"), [(18, "v1d"), *(pytest.param(50, v, marks=pytest.mark.slow) for v in ("v1c", "v1d"))]
)
def test_deep_stems_and_pooled_shortcuts_equal_timms(depth, variant):
    torch.manual_seed(0)
    peer, ours = timm.create_model(f"resnet{depth}{variant[-1]}").eval(), ResNet(depth, variant=variant).eval()
    assert ours.published_weights() in timm.list_pretrained(f"resnet{depth}{variant[-1]}.*")
    for module in peer.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
    ours.load_state_dict(body(ours.convert(peer.state_dict())))
    x = torch.randn(1, 3, 75, 61)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[-1], peer.forward_features(x))


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("placement", ["standard", "pre", "inner", "post", "identity"])
def test_placements_compute_their_equations(depth, placement):
    torch.manual_seed(0)
    backbone = ResNet(depth, lambda c: SqueezeExcitation(c, 8), placement=placement).eval()
    for block in (backbone.layer2[0], backbone.layer2[1]):  # with and without projection
        refine, inside = block.attention, 64 if depth == 18 else 256
        x = torch.randn(1, block.conv1.in_channels, 9, 7)
        assert x.shape[1] in (inside, 2 * inside)

        def residual(t, block=block, within=lambda t: t):
            t = torch.relu(block.bn1(block.conv1(t)))
            t = block.bn2(block.conv2(within(t) if depth == 18 else t))
            return t if depth == 18 else block.bn3(block.conv3(within(torch.relu(t))))

        shortcut = x if block.downsample is None else block.downsample(x)
        expected = {
            "standard": lambda: torch.relu(refine(residual(x)) + shortcut),  # noqa: B023
            "pre": lambda: torch.relu(residual(refine(x)) + shortcut),  # noqa: B023
            "inner": lambda: torch.relu(residual(x, within=refine) + shortcut),  # noqa: B023
            "post": lambda: refine(torch.relu(residual(x) + shortcut)),  # noqa: B023
            "identity": lambda: torch.relu(residual(x) + refine(shortcut)),  # noqa: B023
        }[placement]()
        torch.testing.assert_close(block(x), expected)


def test_attention_goes_to_the_chosen_stages_only():
    backbone = ResNet(18, SqueezeExcitation, attention_stages=(2, 4))
    owners = {name.split(".")[0] for name, module in backbone.named_modules() if isinstance(module, SqueezeExcitation)}
    assert owners == {"layer2", "layer4"}


def test_factory_sees_the_channels_it_refines():
    seen = []

    def factory(channels):
        seen.append(channels)
        return SqueezeExcitation(channels)

    with torch.device("meta"):
        ResNet(50, factory, attention_stages=(1, 2))
        assert seen == [256] * 3 + [512] * 4
        seen.clear()
        ResNet(50, factory, attention_stages=(1, 2), placement="pre")
    assert seen == [64, 256, 256, 256, 512, 512, 512]


def test_operators_keep_their_own_initialisation():
    backbone = ResNet(18, CBAM)
    weights = [m.spatial.bn.weight.item() for m in backbone.modules() if isinstance(m, CBAM)]
    assert weights == [0.0] * 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 20}, "depth=20 .*18, 26, 34, 38, 50, 101, 152"),
        ({"output_stride": 4}, "output_stride=4 .*8, 16 or 32"),
        ({"attention_stages": (0, 1)}, r"attention_stages=\(0, 1\) .*1, 2, 3, 4"),
        ({"placement": "inside"}, "placement='inside' .*standard, pre, inner, post, identity"),
        ({"frozen_stages": 6}, "stages=6 "),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        ResNet(**{"depth": 18, **options})
