"""VGG of "Learn to pay attention": sizes of all published variants, the authors' layer list, and every image size."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from attention import SqueezeExcitation, record_attention
from backbones import VGG, LearnToPayNetwork, classifier, ltpa_vgg, published_figures

# Channels and pooling layers (P), taps (T) of the authors' three levels.
LAYERS = [
    64,
    64,
    128,
    128,
    256,
    256,
    256,
    "T",
    "P",
    512,
    512,
    512,
    "T",
    "P",
    512,
    512,
    512,
    "T",
    "P",
    512,
    "P",
    512,
    "P",
]
ATT3, ATT2, ATT1 = (1, 2, 4), (2, 4), (4,)
PARAMETERS = {  # taps, aggregation: parametrised and dot product, for 10 and for 100 classes
    (ATT1, "concat"): (19_714_123, 19_713_610, 19_760_293, 19_759_780),
    (ATT1, "independent"): (19_714_123, 19_713_610, 19_760_293, 19_759_780),
    (ATT2, "concat"): (19_720_780, 19_719_754, 19_813_030, 19_812_004),
    (ATT2, "independent"): (19_720_790, 19_719_764, 19_813_130, 19_812_104),
    (ATT3, "concat"): (19_856_461, 19_855_178, 19_971_751, 19_970_468),
    (ATT3, "independent"): (19_856_481, 19_855_198, 19_971_951, 19_970_668),
}


def randomised(network):
    """A network in double precision whose normalisations show in what it computes."""
    torch.manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
            for value in (part.weight.data, part.running_var):
                value.uniform_(0.5, 1.5)
            for value in (part.bias.data, part.running_mean):
                value.normal_(0, 0.2)
        elif isinstance(part, nn.Conv2d):
            part.bias.data.normal_(0, 0.2)
    return network.double().eval()


def reference(backbone, x):
    """The tapped maps and the last one, by the list of layers."""
    state = list(backbone.state_dict().values())
    maps = []
    for layer in LAYERS:
        if layer == "T":
            maps.append(x)
        elif layer == "P":
            below, right = x.shape[2] % 2, x.shape[3] % 2
            x = F.max_pool2d(F.pad(x, (0, right, 0, below), value=-math.inf), 2)
        else:
            weight, bias, gain, shift, mean, variance, _ = (state.pop(0) for _ in range(7))
            assert len(weight) == layer
            x = F.conv2d(x, weight, bias, padding=1)
            x = F.relu(F.batch_norm(x, mean, variance, gain, shift, eps=1e-3))
    assert not state
    return [*maps, x]


@pytest.mark.parametrize(("taps", "aggregation"), PARAMETERS)
def test_sizes_of_all_published_variants(taps, aggregation):
    with torch.device("meta"):
        backbone = VGG(out_strides=(1, 2, 4, 32))
        counts = [
            sum(p.numel() for p in LearnToPayNetwork(backbone, classes, taps, compatibility, aggregation).parameters())
            for classes in (10, 100)
            for compatibility in ("parametrised", "dot_product")
        ]
    assert tuple(counts) == PARAMETERS[taps, aggregation]


def test_the_entry_is_the_published_network():
    with torch.device("meta"):
        network = classifier("ltpa_vgg", 100).eval()
        with FlopCounterMode(display=False) as counter:
            assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 100)
        dense = ltpa_vgg()
    # The convolutions and the two linear layers of a re-implementation without attention (3,786,393,600 with another
    # classifier), then scores, pooling and projection of three levels.
    convolutions = 3_786_393_600 - 512 * 512 - 512 * 100
    levels = sum(2 * channels * side**2 + channels for channels, side in ((256, 32), (512, 16), (512, 8)))
    expected = convolutions + 512 * 512 + levels + 512 * 256 + 1280 * 100
    assert counter.get_total_flops() == 2 * expected
    figures = published_figures()["ltpa_vgg"]
    assert (figures.parameters, figures.macs, figures.size, figures.classes) == (19_971_751, expected, 32, 100)
    assert sum(p.numel() for p in dense.parameters()) == 19_444_800
    assert dense.strides == (4, 8, 16, 32)


@pytest.mark.parametrize("size", [(32, 32), (21, 10)])
def test_maps_follow_the_authors_layers(size):
    backbone = randomised(VGG(out_strides=(1, 2, 4, 32)))
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        for feature, expected in zip(backbone(x), reference(backbone, x), strict=True):
            torch.testing.assert_close(feature, expected, rtol=1e-9, atol=1e-9)


def test_scores_are_those_of_three_attended_levels():
    network = randomised(LearnToPayNetwork(VGG(out_strides=(1, 2, 4, 32)), 5, compatibility="dot_product"))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad(), record_attention(network) as maps:
        scores = network(x)
        *taps, last = reference(network.backbone, x)
        assert last.shape == (2, 512, 1, 1)
        descriptor = network.describe[1](last.flatten(1))
        vectors = []
        for level, norm, tap in zip(network.attend.levels, network.attend.normalise, taps, strict=True):
            towards = level.project_descriptor(descriptor)
            local = tap.flatten(2)
            weights = torch.einsum("bc,bcn->bn", towards, local).softmax(1)
            vectors.append(F.relu(norm[0](torch.einsum("bn,bcn->bc", weights, local))))
        expected = network.attend.classify[0](torch.cat(vectors, 1))
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-9)
    recorded = [each.weights.shape[-2:] for each in (found for level in maps.values() for found in level)]
    assert recorded == [(32, 32), (16, 16), (8, 8)]


@pytest.mark.parametrize("compatibility", ["parametrised", "dot_product"])
def test_what_lies_behind_the_last_tap_learns_by_the_dot_product_alone(compatibility):
    network = randomised(LearnToPayNetwork(VGG(out_strides=(1, 2, 4, 32)), 5, compatibility=compatibility))
    network(torch.randn(2, 3, 8, 8, dtype=torch.float64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    behind = [*network.backbone.blocks[5:].parameters(), *network.describe.parameters()]
    sizes = [p.grad.abs().max() for p in behind]
    assert min(sizes) > 1e-6 if compatibility == "dot_product" else max(sizes) < 1e-12
    assert all(p.grad.abs().max() > 1e-6 for p in network.backbone.blocks[:5].parameters())


@pytest.mark.parametrize(("height", "width"), [(203, 331), (32, 33), (33, 1)])
def test_odd_sizes(height, width):
    with torch.device("meta"):
        backbone = VGG(attention=partial(SqueezeExcitation, reduction=16), out_strides=(1, 2, 4, 8, 16, 32)).eval()
        features = backbone(torch.zeros(1, 3, height, width))
    assert backbone.channels == (256, 512, 512, 512, 512, 512)
    for feature, channels, stride in zip(features, backbone.channels, backbone.strides, strict=True):
        assert feature.shape == (1, channels, math.ceil(height / stride), math.ceil(width / stride))


def test_gradients_are_equal_with_checkpointing():
    torch.manual_seed(0)
    attention = partial(SqueezeExcitation, reduction=4)
    plain, saving = VGG(attention), VGG(attention, checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 33, 20)
    for backbone in (plain, saving):
        torch.manual_seed(1)  # for dropout
        sum(feature.square().mean() for feature in backbone(x)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in plain.parameters())
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), saving.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in zip(plain.buffers(), saving.buffers(), strict=True))


def test_dropout_is_where_the_authors_have_it():
    with torch.device("meta"):
        backbone = VGG()
    found = [[p.p for p in block.modules() if isinstance(p, nn.Dropout)] for block in backbone.blocks]
    assert found == [[0.3], [0.4], [0.4, 0.4], [0.4, 0.4], [0.4, 0.4], [], []]
    calls = []
    backbone.dropout.register_forward_hook(lambda _module, inputs, _output: calls.append(inputs[0].shape[2]))
    backbone(torch.zeros(1, 3, 32, 32, device="meta"))
    assert calls == [4, 2]  # in front of the last two pooling layers


def test_frozen_stages_stay_frozen_in_training():
    backbone = VGG(frozen_stages=3, out_strides=(16,)).train()
    before = copy.deepcopy(backbone.state_dict())
    backbone(torch.randn(2, 3, 32, 32))[0].mean().backward()
    for name, value in backbone.state_dict(keep_vars=True).items():
        if name.startswith(("blocks.0.", "blocks.1.", "blocks.2.")):
            assert value.grad is None and torch.equal(value, before[name])
        elif name.endswith("running_mean"):
            assert not torch.equal(value, before[name])
    assert len(backbone.stages()) == 7 and sum(map(len, backbone.layer_groups())) == len(list(backbone.parameters()))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: VGG(out_strides=(4, 8)), r"out_strides=\(4, 8\) .*ends with 16"),
        (lambda: VGG(out_strides=(8, 4, 32)), r"out_strides=\(8, 4, 32\) .*ascending"),
        (lambda: VGG(out_strides=(3, 32)), r"out_strides=\(3, 32\)"),
        (lambda: VGG(out_strides=()), r"out_strides=\(\)"),
        (lambda: VGG(dropout=(0.3, 1.0)), r"dropout=\(0.3, 1.0\)"),
        (lambda: VGG(norms="none"), "norms='none'"),
        (lambda: LearnToPayNetwork(VGG()), r"tapped_strides=\(1, 2, 4\).*\(4, 8, 16, 32\); choose"),
        (lambda: LearnToPayNetwork(VGG(out_strides=(1, 2, 4, 32)), 0), "num_classes=0"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(build, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        build()
