"""ELSA-VOLO: the sizes that our reading of the paper gives, and timm's VOLO with the same operators."""

import copy
import math

import pytest
import torch
from timm.models import volo
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from attention import ELSA
from backbones import ELSAVOLO, load_weights
from backbones.volo import VOLOClassifier
from backbones.zoo.registry import classifier, published_figures

TINY = {
    "depths": (2, 1, 2, 1),
    "embed_channels": (24, 32),
    "heads": (3, 4),
    "stem_channels": 8,
    "drop_path": 0.0,
    "image_size": 64,
}
# Parameters and billions of multiplications of kernels 3, 5 and 7, and of the sums with two per cell of these.
SIZES = {
    1: ((26_532_520, 26_672_168, 26_881_640), (7.038, 7.128, 7.263), (0.011, 0.030, 0.059)),
    2: ((58_400_992, 58_721_248, 59_201_632), (14.629, 14.841, 15.159), (0.022, 0.060, 0.118)),
    3: ((85_955_280, 86_382_288, 87_022_800), (21.164, 21.446, 21.870), (0.029, 0.080, 0.157)),
    4: ((191_967_472, 192_722_672, 193_855_472), (45.151, 45.665, 46.436), (0.043, 0.120, 0.236)),
    5: ((293_964_512, 295_097_312, 296_796_512), (73.633, 74.404, 75.560), (0.065, 0.181, 0.354)),
}


@pytest.mark.parametrize(
    ("number", "counted_kernels"),
    [
        (1, (5,)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((1, (3, 7)), (2, (5,)), (3, (5,)), (4, (5,)), (5, (5,)))
        ),
    ],
)
def test_sizes_are_those_of_the_reading(number, counted_kernels):
    name = f"elsa_volo_d{number}"
    figures = published_figures()[name]
    for kernel_size, parameters, macs, sums in zip((3, 5, 7), *SIZES[number], strict=True):
        with torch.device("meta"):
            network = classifier(name, kernel_size=kernel_size).eval()
            assert sum(p.numel() for p in network.parameters()) == parameters
            if kernel_size not in counted_kernels:
                continue
            with FlopCounterMode(display=False) as counter:
                network(torch.zeros(1, 3, 224, 224))
        counted = counter.get_total_flops() // 2  # of the two, the counter sees the depth-wise convolution
        assert counted / 1e9 == pytest.approx(macs + sums / 2, abs=0.001)
        if kernel_size == 5:
            assert (figures.parameters, figures.macs, figures.reading) == (parameters, counted, "reconstruction")


class ChannelsLast(nn.Module):
    """An operator on maps (B, C, H, W) for hosts with maps (B, H, W, C)."""

    def __init__(self, operator):
        super().__init__()
        self.operator = operator

    def forward(self, x):
        return self.operator(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def timms(**options):
    """timm's VOLO with ELSA as attention of its outlookers."""
    torch.manual_seed(0)
    network = volo.VOLO(
        [2, 1, 2, 1],
        64,
        stem_hidden_dim=8,
        embed_dims=[24, 32, 32, 32],
        num_heads=[3, 4, 4, 4],
        num_classes=7,
        **options,
    )
    for block in network.network[0]:
        elsa = ELSA(24, 24, heads=3, kernel_size=5, group_width=8, mul_power=1, bias=False)
        block.attn = ChannelsLast(elsa)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.2)
    return network


def filled(network, state):
    state = {name.replace(".operator.", "."): value for name, value in state.items()}
    converted = network.backbone.convert(state)
    own = network.state_dict()
    renamed = {f"backbone.{name}" if f"backbone.{name}" in own else name: value for name, value in converted.items()}
    network.load_state_dict(renamed)
    return network


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_features_and_scores_equal_timms(training):
    peer = timms().double().train(training)
    ours = VOLOClassifier(ELSAVOLO(**TINY, out_norms=False), 7).double().train(training)
    filled(ours, peer.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), peer(x), rtol=1e-9, atol=1e-9)
        features = ours.backbone.eval()(x)
        expected = peer.eval().forward_intermediates(x, [0, 3], intermediates_only=True)
    for feature, value in zip(features, expected, strict=True):
        torch.testing.assert_close(feature, value, rtol=1e-9, atol=1e-9)


def test_weights_of_volo_load_beside_the_attention():
    backbone = ELSAVOLO(**TINY)
    plain = volo.VOLO([2, 1, 2, 1], 64, stem_hidden_dim=8, embed_dims=[24, 32, 32, 32], num_heads=[3, 4, 4, 4])
    given = backbone.convert(plain.state_dict())
    given = {name: value for name, value in given.items() if not name.startswith(backbone.classifier_prefixes)}
    own = backbone.state_dict()
    missing = own.keys() - given.keys()
    assert all(name.startswith(backbone.inserted_prefixes()) for name in missing)
    assert all(".attn." in name and name.startswith("network.0.") for name in given.keys() - own.keys())
    assert all(own[name].shape == value.shape for name, value in given.items() if name in own)


def test_ghost_kernels_in_the_authors_shape_load(tmp_path):
    torch.manual_seed(0)
    trained, backbone = ELSAVOLO(**TINY, mul_power=1), ELSAVOLO(**TINY, mul_power=1)
    state = {
        name: value.unsqueeze(1) if name.endswith("ghost_head") else value
        for name, value in trained.state_dict().items()
    }
    assert any(value.dim() == 5 for value in state.values())
    torch.save(state, tmp_path / "elsa.pth")
    load_weights(backbone, str(tmp_path / "elsa.pth"))
    state = backbone.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in trained.state_dict().items())


def test_images_of_every_size():
    torch.manual_seed(0)
    backbone = ELSAVOLO(**TINY).eval()
    with torch.no_grad():
        for height, width in [(203, 331), (64, 32), (33, 1)]:
            features = backbone(torch.randn(1, 3, height, width))
            expected = [
                (channels, math.ceil(height / stride), math.ceil(width / stride))
                for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
            ]
            assert [tuple(feature.shape[1:]) for feature in features] == expected


def test_positions_are_interpolated_and_exact_at_their_own_size():
    backbone = ELSAVOLO(**TINY)
    merging = backbone.network[1]
    x = torch.randn(1, 8, 8, 24)
    plain = merging.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert torch.equal(merging(x), plain + merging.pos_embed)
    wide = torch.cat([x, x], 2)
    expected = F.interpolate(merging.pos_embed.permute(0, 3, 1, 2), (4, 8), mode="bicubic").permute(0, 2, 3, 1)
    torch.testing.assert_close(merging(wide), merging.proj(wide.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) + expected)
    larger = backbone.resize("network.1.pos_embed", merging.pos_embed.data, (1, 4, 8, 32))
    torch.testing.assert_close(larger, expected)
    assert backbone.resize("network.1.pos_embed", merging.pos_embed.data, (1, 4, 8, 16)) is None
    assert backbone.resize("network.1.proj.weight", merging.proj.weight.data, (1, 4, 8, 16)) is None


def test_output_norms_are_for_dense_prediction():
    torch.manual_seed(0)
    dense, plain = ELSAVOLO(**TINY).eval(), ELSAVOLO(**TINY, out_norms=False).eval()
    plain.load_state_dict({n: v for n, v in dense.state_dict().items() if not n.startswith("norm")})
    x = torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        for feature, value in zip(dense(x), plain(x), strict=True):
            expected = F.layer_norm(value.permute(0, 2, 3, 1), value.shape[1:2]).permute(0, 3, 1, 2)
            torch.testing.assert_close(feature, expected)


@pytest.mark.parametrize("mul_power", [0, 1])
def test_every_parameter_learns_and_checkpointing_changes_nothing(mul_power):
    torch.manual_seed(0)
    plain = ELSAVOLO(**{**TINY, "drop_path": 0.3}, mul_power=mul_power).double().train()
    network = copy.deepcopy(plain)
    network.checkpointing = True
    x = torch.randn(2, 3, 61, 90, dtype=torch.float64)
    for host in (plain, network):
        torch.manual_seed(0)
        sum(feature.square().mean() for feature in host(x)).backward()
    assert [n for n, p in plain.named_parameters() if p.grad is None or not p.grad.any()] == []
    for (name, p), q in zip(plain.named_parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-9, atol=1e-12, msg=name)
    for value, expected in zip(network.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(value, expected)


def test_stages_hold_every_parameter_and_stay_frozen():
    for out_norms in (True, False):
        backbone = ELSAVOLO(**TINY, out_norms=out_norms, frozen_stages=2, norms="eval").train()
        assert sum(map(len, backbone.layer_groups())) == len(list(backbone.parameters()))
        frozen = {n.rsplit(".", 1)[0].split(".")[0] for n, p in backbone.named_parameters() if not p.requires_grad}
        assert frozen == ({"patch_embed", "network", "norm0"} if out_norms else {"patch_embed", "network"})
        inserted = {
            id(p) for part in backbone.network[0].modules() if isinstance(part, ELSA) for p in part.parameters()
        }
        assert all(p.requires_grad == (id(p) in inserted) for p in backbone.network[0].parameters())
        assert all(p.requires_grad for part in backbone.network[1:] for p in part.parameters())
        assert not any(m.training for m in backbone.patch_embed.modules())
    backbone.freeze(5)
    elsa = tuple(f"{name}." for name, module in backbone.named_modules() if isinstance(module, ELSA))
    learns = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert learns == {name for name, _ in backbone.named_parameters() if name.startswith(elsa)}


def test_statistics_of_the_stem_follow_norms():
    backbone = ELSAVOLO(**TINY, norms="frozen").train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 3 and not any(m.training or m.weight.requires_grad for m in norms)


def test_depth_is_dropped_as_in_timms():
    ours = ELSAVOLO(**{**TINY, "drop_path": 0.5})
    theirs = timms(drop_path_rate=0.5)
    rates = [
        [block.drop_path1.p if ours_ else block.drop_path1.drop_prob for part in host.network[2:] for block in part]
        for host, ours_ in ((ours, True), (theirs, False))
    ]
    assert rates[0] == pytest.approx(rates[1]) and rates[0] == pytest.approx([0.2, 0.3, 0.4, 0.5])


@pytest.mark.slow
def test_compiled_networks_agree():
    torch.manual_seed(0)
    network = ELSAVOLO(**TINY).double().eval()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    x = torch.randn(1, 3, 65, 40, dtype=torch.float64)
    with torch.no_grad():
        for feature, value in zip(compiled(x), network(x), strict=True):
            torch.testing.assert_close(feature, value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (0, 1, 1, 1)}, "depths=0 "),
        ({"image_size": 8}, "image_size=8 "),
        ({"norms": "no"}, "norms='no' .*train, eval, frozen"),
        ({"drop_path": -0.1}, "drop_path=-0.1 "),
        ({"kernel_size": 4}, "kernel_size=4 "),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        ELSAVOLO(**{**TINY, **options})


def test_a_classifier_needs_classes():
    with pytest.raises(ValueError, match="num_classes=0 "):
        VOLOClassifier(ELSAVOLO(**TINY), 0)
