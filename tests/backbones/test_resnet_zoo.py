"""The published residual networks: exact sizes, and timm's and the authors' checkpoints."""

from functools import partial

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import backbones
from attention import BAM, CBAM, GlobalContext, SelectiveKernel, SqueezeExcitation, StandAloneSelfAttention
from backbones import ResNet
from backbones.conversions.resnet import from_known_layout
from tests.selection import mostly_slow

SIZES = {
    "resnet50": (25_557_032, 4_089_184_256),
    "se_resnet50": (28_088_024, 4_091_699_200),
    "se_resnext50_32x4d": (27_559_896, 4_232_994_816),
    "sknet50": (27_479_784, 4_462_710_784),
    "cbam_resnet50": (28_089_624, 4_095_573_110),
    "spatial_resnet50": (25_558_632, 4_090_543_222),
    "bam_resnet50": (25_915_099, 4_171_331_328),
}


@pytest.mark.parametrize("name", mostly_slow(SIZES, {"sknet50", "bam_resnet50"}))
def test_parameters_and_multiply_accumulates(name):
    with torch.device("meta"):
        network = backbones.classifier(name).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, 224, 224))
    assert (sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2) == SIZES[name]


@pytest.mark.parametrize(
    ("name", "parameters", "giga_flops"),
    [
        ("aa_resnet34", 20_745_072, 7.210),
        ("aa_resnet50", 25_777_392, 8.377),
        pytest.param("aa_resnet101", 45_354_728, 16.32, marks=pytest.mark.slow),
        pytest.param("aa_resnet152", 61_549_536, 24.16, marks=pytest.mark.slow),
    ],
)
def test_attention_augmented(name, parameters, giga_flops):
    with torch.device("meta"):
        network = backbones.classifier(name).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, 224, 224))
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert counter.get_total_flops() / 1e9 == pytest.approx(giga_flops, rel=5e-4)


@pytest.mark.parametrize(
    ("name", "parameters", "giga_flops"),
    [
        ("sasa_resnet26", 10_342_632, 4.484),
        pytest.param("sasa_resnet38", 14_190_632, 5.725, marks=pytest.mark.slow),
        pytest.param("sasa_resnet50", 18_038_632, 6.966, marks=pytest.mark.slow),
    ],
)
def test_stand_alone_self_attention(name, parameters, giga_flops):
    """The published cost has relative logits of all k^2 cells; ours are sums of those of k rows and k columns."""
    saved = []
    with torch.device("meta"):
        network = backbones.classifier(name).eval()
        for mixer in network.modules():
            if isinstance(mixer, StandAloneSelfAttention):
                mixer.register_forward_pre_hook(
                    lambda mixer, inputs: saved.append(inputs[0][0, 0].numel() * mixer.out_channels * (7**2 - 7))
                )
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, 224, 224))
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert (counter.get_total_flops() + 2 * sum(saved)) / 1e9 == pytest.approx(giga_flops, rel=5e-3)


def test_full_attention():
    """The stem costs less than the published one: queries and keys of an image's three channels are never formed."""
    with torch.device("meta"):
        for name, parameters in (("sasa_resnet26", 10_334_568), ("sasa_resnet50", 18_030_568)):
            network = backbones.classifier(name, stem="attention")
            assert sum(p.numel() for p in network.parameters()) == parameters


def randomised(network):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
            elif value.is_floating_point() and value.ndim < 2:
                value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return network.eval()


@pytest.mark.parametrize(
    ("peer", "options", "name"),
    [
        pytest.param("resnet50", {}, "resnet50", marks=pytest.mark.slow),  # in every run: test_classifier.py
        pytest.param("seresnet50", {}, "se_resnet50", marks=pytest.mark.slow),
        ("seresnext50_32x4d", {}, "se_resnext50_32x4d"),
        ("skresnext50_32x4d", {}, "sknet50"),
    ],
)
def test_timm_networks_give_the_same_scores(peer, options, name):
    torch.manual_seed(0)
    theirs = randomised(timm.create_model(peer, **options))
    ours = backbones.classifier(name).eval()
    state = ours.backbone.convert(theirs.state_dict())
    head = {key: state.pop(key) for key in ("fc.weight", "fc.bias")}
    ours.backbone.load_state_dict(state)
    ours.fc.load_state_dict({key.removeprefix("fc."): value for key, value in head.items()})
    x = torch.randn(1, 3, 65, 97)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_timm_cbam_has_its_planes_swapped():
    torch.manual_seed(0)
    theirs = randomised(timm.create_model("resnet18", block_args={"attn_layer": timm_cbam}))
    ours = ResNet(18, CBAM).eval()
    state = ours.convert(theirs.state_dict())
    ours.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")})
    x = torch.randn(1, 3, 65, 97)
    torch.testing.assert_close(ours(x)[-1], theirs.forward_features(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("layer", "fusion"), [("gca", "add"), ("gc", "multiply")])
def test_timms_global_context_gives_the_same_features(tmp_path, layer, fusion):
    torch.manual_seed(0)
    theirs = randomised(timm.create_model("resnet18", block_args={"attn_layer": layer}))
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    context = partial(GlobalContext, ratio=1 / 8, fusion=fusion, epsilon=1e-6)
    ours = ResNet(18, context, weights=str(tmp_path / "weights.pth")).eval()
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[-1], theirs.forward_features(x), rtol=1e-4, atol=1e-5)
    other = {"add": "multiply", "multiply": "add"}[fusion]
    for options in ({"fusion": fusion}, {"fusion": other, "epsilon": 1e-6}):  # the released networks' epsilon is 1e-5
        with pytest.raises(ValueError, match=f"give GlobalContext fusion='{fusion}' and epsilon=1e-6"):
            ResNet(18, partial(GlobalContext, ratio=1 / 8, **options)).convert(theirs.state_dict())
    both = {**theirs.state_dict(), "layer1.0.se.mlp_add.fc1.bias": None, "layer1.0.se.mlp_scale.fc1.bias": None}
    with pytest.raises(ValueError, match="add the global context and multiply by it"):
        ours.convert(both)


def timm_cbam(channels, **_):
    from timm.layers.cbam import CbamModule

    return CbamModule(channels, rd_ratio=1 / 16, rd_divisor=1, mlp_bias=True)


def authors_names(name):
    """Names of the authors' CBAM and BAM code, as the specification of their checkpoints lists them."""
    for ours, theirs in [
        ("attention.channel.fc1", "cbam.ChannelGate.mlp.1"),
        ("attention.channel.fc2", "cbam.ChannelGate.mlp.3"),
        ("attention.spatial.", "cbam.SpatialGate.spatial."),
        ("between.0", "bam1"),
        ("between.1", "bam2"),
        ("between.2", "bam3"),
        ("channel.0.", "channel_att.gate_c.gate_c_fc_0."),
        ("channel.1.", "channel_att.gate_c.gate_c_bn_1."),
        ("channel.3.", "channel_att.gate_c.gate_c_fc_final."),
        ("position.0.", "spatial_att.gate_s.gate_s_conv_reduce0."),
        ("position.1.", "spatial_att.gate_s.gate_s_bn_reduce0."),
        ("position.3.", "spatial_att.gate_s.gate_s_conv_di_0."),
        ("position.4.", "spatial_att.gate_s.gate_s_bn_di_0."),
        ("position.6.", "spatial_att.gate_s.gate_s_conv_di_1."),
        ("position.7.", "spatial_att.gate_s.gate_s_bn_di_1."),
        ("position.9.", "spatial_att.gate_s.gate_s_conv_final."),
    ]:
        name = name.replace(ours, theirs)
    return name


@pytest.mark.parametrize(
    "options", [{"attention": CBAM}, {"attention_between": lambda c: BAM(c, 16)}], ids=["cbam", "bam"]
)
def test_authors_layout_comes_back(options):
    network = ResNet(18, **options)
    state = network.state_dict()
    theirs = {
        authors_names(name): value[:, :, 0, 0] if "attention.channel.fc" in name and value.ndim == 4 else value
        for name, value in state.items()
    }
    assert theirs.keys() != state.keys()
    found = from_known_layout(theirs, network)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_caffe_networks_are_refused():
    with pytest.raises(ValueError, match=r"legacy_ family.*seresnet50"):
        ResNet(18).convert({"layer0.conv1.weight": torch.zeros(1)})


@pytest.mark.parametrize("mixer", [lambda i, o, s: SelectiveKernel(i, o, s, groups=8), StandAloneSelfAttention])
def test_mixers_get_the_strides_that_dilation_leaves(mixer):
    x = torch.randn(1, 3, 97, 65)
    for output_stride, side in ((32, (4, 3)), (8, (13, 9))):
        network = ResNet(26, mixer=mixer, output_stride=output_stride).eval()
        assert network(x)[-1].shape == (1, 2048, *side)


def test_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    plain = ResNet(18, SqueezeExcitation)
    spared = ResNet(18, SqueezeExcitation, checkpointing=True)
    spared.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 33, 65)
    for network in (plain, spared):
        network(x)[-1].square().mean().backward()
    for (name, ours), theirs in zip(plain.named_parameters(), spared.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    for (name, ours), theirs in zip(plain.named_buffers(), spared.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 20}, "depth=20"),
        ({"depth": 18, "groups": 32}, "need bottlenecks"),
        ({"mixer_stages": (0,)}, "mixer_stages=.0,. has no such stages"),
        ({"stem": "patch"}, "stem='patch'"),
        ({"groups": 0}, "groups=0"),
    ],
    ids=str,
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**options)
