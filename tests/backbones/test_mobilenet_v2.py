"""MobileNetV2: torchvision's network without attention, and the inverted residual's equation with it."""

from functools import partial

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from attention import AttentionAugmentedConv2d, CoordinateAttention, DepthwiseConvolution, SqueezeExcitation
from backbones import MobileNetV2
from backbones.places import mix_expansions
from backbones.zoo.registry import classifier
from tests.selection import mostly_slow

AUGMENTED = partial(
    AttentionAugmentedConv2d, kernel_size=1, heads=4, kappa=0.1, upsilon=0.05, min_key_channels=1
)  # of the mobile networks of arXiv 1904.09925
GRIDS = [partial(AUGMENTED, pooled=True), partial(AUGMENTED, pooled=True), AUGMENTED, partial(AUGMENTED, grid=(7, 7))]


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


ENTRIES = {
    "mobilenet_v2": (3_504_872, 300_774_272),
    "mobilenet_v2_se": (3_888_208, 301_150_208),
    "mobilenet_v2_cbam": (3_889_808, 302_524_960),
    "mobilenet_v2_ca": (3_950_648, 306_666_368),
}
DROPOUTS = {"mobilenet_v2": 0.2, "mobilenet_v2_se": 0.1, "mobilenet_v2_cbam": 0.1, "mobilenet_v2_ca": 0.1}
REDUCED = [
    ("mobilenet_v2_ca", 8, 5_213_456),
    pytest.param("mobilenet_v2_ca", 16, 4_366_850, marks=pytest.mark.slow),
    pytest.param("mobilenet_v2_ca", 24, 4_086_776, marks=pytest.mark.slow),
    pytest.param("mobilenet_v2_ca", 48, 3_814_520, marks=pytest.mark.slow),
    ("mobilenet_v2_se", 12, 4_264_440),
    pytest.param("mobilenet_v2_se", 16, 4_076_324, marks=pytest.mark.slow),
    pytest.param("mobilenet_v2_se", 32, 3_793_861, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", mostly_slow(ENTRIES, {"mobilenet_v2_cbam"}))  # and CA: test_zoo.py
def test_sizes_of_the_published_networks(name):
    parameters, macs = ENTRIES[name]
    with torch.device("meta"):
        network = classifier(name).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, 224, 224))
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert counter.get_total_flops() == 2 * macs
    assert network.dropout.p == DROPOUTS[name]


@pytest.mark.parametrize(("name", "reduction", "parameters"), REDUCED)
def test_sizes_of_other_reductions(name, reduction, parameters):
    with torch.device("meta"):
        network = classifier(name, reduction=reduction)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_hidden_layer_of_squeeze_and_excitation_is_the_authors():
    with torch.device("meta"):
        backbone = classifier("mobilenet_v2_se").backbone
    assert {m.hidden for m in backbone.modules() if isinstance(m, SqueezeExcitation)} == {"relu6"}


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


def filled(network, entries):
    """The network with converted entries of a checkpoint, every one of them used."""
    converted = network.backbone.convert(entries)
    network.load_state_dict({n if n.startswith("fc.") else f"backbone.{n}": v for n, v in converted.items()})
    return network.eval()


@pytest.mark.parametrize(
    ("make", "width"),
    [
        (torchvision.models.mobilenet_v2, 1.0),
        (lambda: timm.create_model("mobilenetv2_100"), 1.0),
        (lambda: timm.create_model("mobilenetv2_050"), 0.5),
    ],
    ids=["torchvision", "timm", "timm half"],
)
def test_scores_equal_the_peers_with_its_weights(make, width):
    peer = randomise(make().double().eval())
    ours = filled(classifier("mobilenet_v2", width=width).double(), peer.state_dict())
    x = torch.randn(1, 3, 65, 50, dtype=torch.float64)
    with torch.no_grad():
        expected = peer(x)
        assert expected.std() > 1e-3
        torch.testing.assert_close(ours(x), expected, rtol=1e-9, atol=1e-9)


ROWS = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


def authors_entries(attended=True):
    """A random checkpoint in the layout of the coordinate attention code, from its documented keys."""
    entries = {}

    def convolution(name, channels, of, size=1, bias=False):
        entries[f"{name}.weight"] = torch.randn(channels, of, size, size) * (2 / (of * size * size)) ** 0.5
        if bias:
            entries[f"{name}.bias"] = torch.randn(channels) * 0.1

    def norm(name, channels):
        entries[f"{name}.weight"] = torch.rand(channels) + 0.5
        entries[f"{name}.bias"] = torch.randn(channels) * 0.2
        entries[f"{name}.running_mean"] = torch.randn(channels) * 0.2
        entries[f"{name}.running_var"] = torch.rand(channels) + 0.5
        entries[f"{name}.num_batches_tracked"] = torch.tensor(7)

    convolution("features.0.0", 32, 3, 3)
    norm("features.0.1", 32)
    channels, number = 32, 0
    for factor, row_channels, count, _ in ROWS:
        for _ in range(count):
            number += 1
            name, hidden, project = f"features.{number}.conv", factor * channels, 3
            if factor == 1:
                convolution(f"{name}.0", hidden, 1, 3)
                norm(f"{name}.1", hidden)
            else:
                convolution(f"{name}.0", hidden, channels)
                norm(f"{name}.1", hidden)
                convolution(f"{name}.3", hidden, 1, 3)
                norm(f"{name}.4", hidden)
                project = 7 if attended else 6
                if attended:
                    width = max(8, hidden // 32)
                    convolution(f"{name}.6.conv1", width, hidden, bias=True)
                    norm(f"{name}.6.bn1", width)
                    convolution(f"{name}.6.conv2", hidden, width, bias=True)
                    convolution(f"{name}.6.conv3", hidden, width, bias=True)
            convolution(f"{name}.{project}", row_channels, hidden)
            norm(f"{name}.{project + 1}", row_channels)
            channels = row_channels
    convolution("conv.0", 1280, 320)
    norm("conv.1", 1280)
    entries["classifier.1.weight"], entries["classifier.1.bias"] = torch.randn(1000, 1280) * 0.1, torch.randn(1000)
    return {name: value.double() if value.is_floating_point() else value for name, value in entries.items()}


def authors_network(entries, x, attended=True):
    """Scores that the checkpoint gives by the published equations."""

    def normalised(x, name):
        mean, variance, gain, bias = (
            entries[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, gain, bias)

    def convolved(x, name, stride=1):
        weight = entries[f"{name}.weight"]
        groups = len(weight) if weight.shape[1] == 1 else 1
        return F.conv2d(x, weight, entries.get(f"{name}.bias"), stride, weight.shape[-1] // 2, 1, groups)

    def coordinate(x, name):
        descriptor = torch.cat([x.mean(3), x.mean(2)], 2)[..., None]
        hidden = normalised(convolved(descriptor, f"{name}.conv1"), f"{name}.bn1")
        hidden = hidden * (hidden + 3).clamp(0, 6) / 6
        of_rows, of_columns = hidden[:, :, : x.shape[2]], hidden[:, :, x.shape[2] :]
        rows = torch.sigmoid(convolved(of_rows, f"{name}.conv2"))  # (B, C, H, 1)
        columns = torch.sigmoid(convolved(of_columns, f"{name}.conv3")).transpose(2, 3)
        return x * rows * columns

    x = normalised(convolved(x, "features.0.0", 2), "features.0.1").clamp(0, 6)
    number = 0
    for factor, _, count, row_stride in ROWS:
        for index in range(count):
            number += 1
            name, stride, y, at = f"features.{number}.conv", row_stride if index == 0 else 1, x, 0
            if factor > 1:
                y, at = normalised(convolved(y, f"{name}.0"), f"{name}.1").clamp(0, 6), 3
            y = normalised(convolved(y, f"{name}.{at}", stride), f"{name}.{at + 1}").clamp(0, 6)
            at += 3
            if factor > 1 and attended:
                y, at = coordinate(y, f"{name}.6"), 7
            y = normalised(convolved(y, f"{name}.{at}"), f"{name}.{at + 1}")
            x = x + y if y.shape == x.shape else y
    x = normalised(convolved(x, "conv.0"), "conv.1").clamp(0, 6).mean((2, 3))
    return x @ entries["classifier.1.weight"].T + entries["classifier.1.bias"]


@pytest.mark.parametrize("attended", [True, False])
def test_the_coordinate_attention_authors_checkpoint_gives_its_scores(attended):
    torch.manual_seed(0)
    entries = authors_entries(attended)
    assert len(entries) == (490 if attended else 314)
    name = "mobilenet_v2_ca" if attended else "mobilenet_v2"
    network = filled(classifier(name).double(), entries)
    x = torch.randn(1, 3, 65, 98, dtype=torch.float64)
    with torch.no_grad():
        expected = authors_network(entries, x, attended)
        assert expected.std() > 1e-3
        torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-9)


def test_own_entries_and_unknown_ones_pass_the_conversion():
    backbone = MobileNetV2(0.25, CoordinateAttention, last_conv=True)
    state = {**backbone.state_dict(), "head.extra.weight": torch.zeros(1)}
    converted = backbone.convert(state)
    assert list(converted) == list(state) and all(converted[name] is value for name, value in state.items())
    flat = {**authors_entries(), "features.2.conv.9.weight": torch.zeros(1), "neck.weight": torch.zeros(1)}
    assert {"features.2.conv.9.weight", "neck.weight"} <= set(backbone.convert(flat))


@pytest.mark.parametrize("options", [{}, {"tap_expansion": True, "last_conv": True}])
def test_gradients_are_equal_with_checkpointing(options):
    torch.manual_seed(0)
    plain = MobileNetV2(0.25, CoordinateAttention, **options).double()
    saving = MobileNetV2(0.25, CoordinateAttention, checkpointing=True, **options).double()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    for backbone in (plain, saving):
        sum(feature.square().mean() for feature in backbone(x)).backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), saving.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in zip(plain.buffers(), saving.buffers(), strict=True))


def test_checkpointing_keeps_less():
    x = torch.randn(1, 3, 64, 64)

    def kept(checkpointing):
        storages = {}

        def pack(tensor):
            storages[tensor.data_ptr()] = tensor.numel()
            return tensor

        backbone = MobileNetV2(0.25, CoordinateAttention, checkpointing=checkpointing)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            features = backbone(x)
        ours = {p.data_ptr() for p in backbone.parameters()}
        return sum(size for pointer, size in storages.items() if pointer not in ours), features

    assert kept(True)[0] < kept(False)[0] / 4


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


def test_expansions_belong_to_the_stage_whose_map_they_read():
    with torch.device("meta"):
        host = MobileNetV2(expansion_mixer=GRIDS, last_conv=True, mixer=DepthwiseConvolution)
        first = MobileNetV2(expansion_mixer=GRIDS, expansion_stages=(1,))
    augmented = {
        index: (mixer.in_channels, mixer.out_channels, mixer.pooled, len(mixer.relative.height_rel))
        for index, block in enumerate(host.features)
        for mixer in block.modules()
        if isinstance(mixer, AttentionAugmentedConv2d)
    }
    of_stage_2 = {index: (32, 192, True, 27) for index in (5, 6, 7)}
    of_stage_3 = {index: (64, 384, False, 27) for index in (8, 9, 10, 11)}
    of_stage_3 |= {index: (96, 576, False, 27) for index in (12, 13, 14)}
    assert augmented == of_stage_2 | of_stage_3 | {index: (160, 960, False, 13) for index in (15, 16, 17)}
    assert all(isinstance(host.features[i].depthwise, DepthwiseConvolution) for i in range(1, 18))
    found = [
        i for i, b in enumerate(first.features) if any(isinstance(m, AttentionAugmentedConv2d) for m in b.modules())
    ]
    assert found == [3, 4]
    with torch.device("meta"), pytest.raises(ValueError, match=r"expansion_stages=\(0,\) has no such stages"):
        MobileNetV2(expansion_stages=(0,))


def test_augmented_expansions_widen_the_map_and_learn():
    torch.manual_seed(0)
    backbone = MobileNetV2(0.5, expansion_mixer=GRIDS, expansion_stages=(1, 2, 3, 4), tap_expansion=True)
    block = backbone.features[5].eval()
    x = torch.randn(2, 16, 9, 14)
    (mixer, norm, activation), depthwise, projection, last_norm = block.conv
    expected = x + last_norm(projection(depthwise(activation(norm(mixer(x))))))
    assert isinstance(mixer, AttentionAugmentedConv2d) and mixer.conv.kernel_size == (1, 1)
    torch.testing.assert_close(block(x), expected)
    features = backbone.train()(torch.randn(2, 3, 75, 61))
    assert [f.shape[1:] for f in features] == [(16, 19, 16), (16, 10, 8), (288, 5, 4), (160, 3, 2)]
    sum(feature.square().mean() for feature in features).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("width", "parameters", "printed"), [(0.75, 3_018_320, 3.02), (1.0, 4_063_214, 4.06)])
def test_mnasnet_with_augmented_expansions_has_the_published_size(width, parameters, printed):
    """In the last 13 of its blocks (arXiv 1904.09925), without a least number of key channels (assumption A59)."""
    with torch.device("meta"):
        network = timm.create_model({0.75: "semnasnet_075", 1.0: "semnasnet_100"}[width])
        blocks = [block for stage in network.blocks for block in stage][-13:]
        mix_expansions([blocks[:1], blocks[1:4], blocks[4:10], blocks[10:]], GRIDS, (1, 2, 3, 4))
    assert sum(value.numel() for value in network.parameters()) == parameters
    assert round(parameters / 1e6, 2) == printed
