"""Places of operators in hosts: stages, blocks, behind blocks, for depthwise convolutions; the same in every host."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from attention import (
    CoordinateAttention,
    DepthwiseConvolution,
    EfficientChannelAttention,
    LocalFilter,
    Mixer,
    SqueezeExcitation,
    StaticGate,
)
from backbones import VGG, EfficientNet, HaloNet, MobileNetV1, MobileNetV2, MobileNeXt, ResNet, Swin
from backbones.places import by_stage, chosen

HOSTS = {
    "resnet": partial(ResNet, 18),
    "mobilenet_v1": partial(MobileNetV1, 0.25, attention_places="pointwise"),
    "mobilenet_v2": partial(MobileNetV2, 0.35),
    "mobilenext": partial(MobileNeXt, 0.35, attention_position="output"),
    "efficientnet": partial(EfficientNet, stochastic_depth=0.0),
    "swin": partial(Swin, 32, (2, 2, 3, 1), drop_path=0.0),
    "halonet": partial(HaloNet, 4, 1, depths=(2, 1, 3, 1), width=16, heads=(1, 2, 2, 2), final_channels=32),
}
# Blocks of the four stages that can have attention: MobileNetV2's first block does not expand.
BLOCKS = {
    "resnet": (2, 2, 2, 2),
    "mobilenet_v1": (3, 2, 6, 2),
    "mobilenet_v2": (2, 3, 7, 4),
    "mobilenext": (2, 3, 7, 8),
    "efficientnet": (3, 2, 6, 5),
    "swin": (2, 2, 3, 1),
    "halonet": (2, 1, 3, 1),
}
every_host = pytest.mark.parametrize("name", HOSTS)


def counts(host, operator):
    """How many operators of a class each of the four stages has."""
    return tuple(sum(isinstance(m, operator) for part in stage for m in part.modules()) for stage in host.stages()[1:])


def test_what_a_choice_of_blocks_means():
    blocks = list("abcdefg")
    assert chosen(blocks, "every", "x") == blocks and chosen(blocks, "last", "x") == ["g"]
    assert chosen(blocks, 1, "x") == blocks and chosen(blocks, 3, "x") == ["c", "f"]
    assert chosen(blocks, (7, 2, 9), "x") == ["b", "g"] and chosen(blocks, (), "x") == []
    for wrong in ("all", 0, (0, 2)):
        with pytest.raises(ValueError, match=r"attention_blocks=.* names no blocks; give every, last"):
            chosen(blocks, wrong, "attention_blocks")


def test_a_list_has_an_operator_for_each_stage():
    assert by_stage(5, (1, 4), "mixer") == [5, None, None, 5]
    assert by_stage([5, None, 6, 7], (1, 2, 3), "mixer") == [5, None, 6, None]
    with pytest.raises(ValueError, match="mixer has 2 entries; give one for each of the 4 stages"):
        by_stage([1, 2], (1,), "mixer")


@every_host
def test_refinements_stand_in_the_chosen_blocks(name):
    with torch.device("meta"):
        build = partial(HOSTS[name], attention=StaticGate)
        assert counts(build(), StaticGate) == BLOCKS[name]
        few = build(attention_stages=(2, 4), attention_blocks="last")
        assert counts(few, StaticGate) == (0, 1, 0, 1)
        assert counts(build(attention_blocks=2), StaticGate) == tuple(n // 2 for n in BLOCKS[name])
        listed = build(attention_blocks=(1, 3))
        assert counts(listed, StaticGate) == tuple(1 + (n > 2) for n in BLOCKS[name])
        if name != "efficientnet":  # which keeps its squeeze-and-excitation where nothing takes its place
            channels = {m.channels for part in few.stages()[2] for m in part.modules() if isinstance(m, StaticGate)}
            assert len(channels) == 1


@every_host
def test_stages_may_have_operators_of_their_own(name):
    operators = [CoordinateAttention, None, partial(EfficientChannelAttention, kernel_size=7), StaticGate]
    with torch.device("meta"):
        host = HOSTS[name](attention=operators)
    first, _, third, last = BLOCKS[name]
    assert counts(host, CoordinateAttention) == (first, 0, 0, 0)
    assert counts(host, EfficientChannelAttention) == (0, 0, third, 0)
    assert counts(host, StaticGate) == (0, 0, 0, last)
    kernels = {m.conv.kernel_size[0] for m in host.modules() if isinstance(m, EfficientChannelAttention)}
    assert kernels == {7}


@every_host
def test_refinements_stand_behind_stages(name):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 96)
    host = HOSTS[name](attention_between=StaticGate, between_stages=(1, 4)).eval()
    assert counts(host, StaticGate) == (1, 0, 0, 1)
    plain = copy.deepcopy(host)
    gates = [m for m in host.modules() if isinstance(m, StaticGate)]
    for index, gate in enumerate(gates):
        nn.init.constant_(gate.scores, index + 1.0)
    for gate in (m for m in plain.modules() if isinstance(m, StaticGate)):
        nn.init.constant_(gate.scores, 100.0)  # a factor of one
    copied = copy.deepcopy(host)
    with torch.no_grad():
        features, expected, again = host(x), plain(x), copied(x)
    if name != "swin":  # whose maps are normalised behind the gate
        torch.testing.assert_close(features[0], expected[0] * torch.sigmoid(torch.tensor(1.0)))
    assert not torch.allclose(features[1], expected[1])  # the next stage sees it
    torch.testing.assert_close(again, features)
    for parameter in copied.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        torch.testing.assert_close(host(x), features)  # a copy has operators of its own


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenext", "efficientnet"])
def test_mixers_take_the_place_of_depthwise_convolutions(name):
    torch.manual_seed(0)
    mixer = partial(DepthwiseConvolution, kernel_size=3)
    host = HOSTS[name](mixer=mixer, mixer_stages=(2, 4), attention=SqueezeExcitation if name != "mobilenext" else None)
    plain = HOSTS[name]()
    depthwise = [
        sum(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for part in stage for m in part.modules())
        for stage in plain.stages()[1:]
    ]
    assert counts(host, Mixer) == (0, depthwise[1], 0, depthwise[3])
    features = host(torch.randn(2, 3, 65, 97))
    assert [f.shape[1:] for f in features] == [f.shape[1:] for f in plain(torch.randn(1, 3, 65, 97))]
    sum(feature.square().mean() for feature in features).backward()
    assert [n for n, p in host.named_parameters() if p.grad is None] == []
    inserted = [n for n in dict(host.named_parameters()) if n.startswith(host.inserted_prefixes())]
    assert any(".value.weight" in n for n in inserted)


def test_mixers_of_a_resnet_stand_in_the_chosen_blocks():
    mixers = [None, None, partial(LocalFilter, kernel_size=3), partial(LocalFilter, kernel_size=5)]
    with torch.device("meta"):
        host = ResNet(50, mixer=mixers, mixer_blocks=2)
    assert counts(host, Mixer) == (0, 0, 3, 1)
    sizes = [m.kernel_size for m in host.modules() if isinstance(m, LocalFilter)]
    assert sizes == [3, 3, 3, 5]


def test_positions_in_swin():
    torch.manual_seed(0)
    host = Swin(32, (1, 1, 1, 1), drop_path=0.0, attention=StaticGate, attention_position="mlp")
    block = host.features[1][0]
    nn.init.normal_(block.refine_mlp.scores)
    x = torch.randn(1, 7, 9, 32)
    mixed = x + block.attn(block.norm1(x))
    expected = mixed + block.mlp(block.norm2(mixed)) * torch.sigmoid(block.refine_mlp.scores)
    torch.testing.assert_close(block(x), expected)
    other = Swin(32, (1, 1, 1, 1), drop_path=0.0, attention=StaticGate).features[1][0]
    nn.init.normal_(other.refine_mixed.scores)
    mixed = x + other.attn(other.norm1(x)) * torch.sigmoid(other.refine_mixed.scores)
    torch.testing.assert_close(other(x), mixed + other.mlp(other.norm2(mixed)))


def vgg_counts(host):
    return [sum(isinstance(m, StaticGate) for m in block.modules()) for block in host.blocks]


def test_stages_of_vgg_are_its_seven_blocks_of_convolutions():
    with torch.device("meta"):
        assert vgg_counts(VGG(StaticGate)) == [1] * 7
        assert vgg_counts(VGG(StaticGate, (3, 5))) == [0, 0, 1, 0, 1, 0, 0]
        assert vgg_counts(VGG(StaticGate, attention_blocks="every")) == [2, 2, 3, 3, 3, 1, 1]
        assert vgg_counts(VGG(StaticGate, (1, 4, 7), 2)) == [1, 0, 0, 1, 0, 0, 0]
        assert vgg_counts(VGG(StaticGate, attention_blocks=(1, 3))) == [1, 1, 2, 2, 2, 1, 1]
        assert vgg_counts(VGG(attention_between=StaticGate)) == [0, 0, 1, 1, 1, 1, 0]
        assert vgg_counts(VGG(StaticGate, attention_between=StaticGate, between_stages=(1, 7))) == [2, 1, 1, 1, 1, 1, 2]
        listed = VGG([StaticGate, None, None, StaticGate, CoordinateAttention, None, None], attention_blocks="every")
        assert vgg_counts(listed) == [2, 0, 0, 3, 0, 0, 0]
        assert sum(isinstance(m, CoordinateAttention) for m in listed.blocks[4].modules()) == 3
        with pytest.raises(ValueError, match="attention has 4 entries; give one for each of the 7 stages"):
            VGG([StaticGate] * 4)
        for option in ("attention_stages", "between_stages"):
            with pytest.raises(ValueError, match=rf"{option}=\(8,\) has no such stages; choose from 1, .*, 6, 7$"):
                VGG(**{option: (8,)})


def test_refinements_of_vgg_act_behind_convolutions_and_in_front_of_pooling():
    torch.manual_seed(0)
    host = VGG(StaticGate, (2,), (1,), StaticGate, (3,), out_strides=(1, 2, 16)).eval()
    plain = VGG(out_strides=(1, 2, 16)).eval()
    gates = [m for m in host.modules() if isinstance(m, StaticGate)]
    assert [gate.channels for gate in gates] == [128, 256]
    for gate in gates:
        nn.init.normal_(gate.scores)
    inner, between = (torch.sigmoid(gate.scores)[:, None, None] for gate in gates)
    inserted = [name for name in host.state_dict() if name.startswith(host.inserted_prefixes())]
    plain.load_state_dict({name: value for name, value in host.state_dict().items() if name not in inserted})
    with torch.no_grad():
        plain.blocks[1][0].register_forward_hook(lambda _layer, _inputs, out: out * inner)
        plain.blocks[2].register_forward_hook(lambda _block, _inputs, out: out * between)
        x = torch.randn(1, 3, 21, 34)
        torch.testing.assert_close(host(x), plain(x))


@every_host
def test_stages_that_are_not_there_are_named(name):
    for option in ("attention_stages", "between_stages", "conv_stages" if name == "halonet" else "mixer_stages"):
        with torch.device("meta"), pytest.raises(ValueError, match=rf"{option}=\(5,\) has no such stages"):
            HOSTS[name](**{option: (5,)})
