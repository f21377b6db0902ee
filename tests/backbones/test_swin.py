"""Swin: torchvision's, timm's and MMSegmentation's networks with the same weights, sizes, and what dense hosts add."""

import copy
from functools import partial

import pytest
import timm
import torch
import torchvision
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.swin_transformer import SwinTransformer

from attention import LocalFilter, StandAloneSelfAttention
from attention import WindowAttention as WindowMixer
from backbones import Swin
from backbones.swin_block import WindowAttention
from backbones.zoo.registry import classifier, list_backbones, published_figures
from backbones.zoo.swin import swin_b, swin_s, swin_t
from tests.selection import mostly_slow

TINY = {"embed_channels": 32, "depths": (2, 2, 2, 2), "drop_path": 0.0}
ZOO = {
    swin_t: (28_288_354, 4_490_566_656, 27_520_698, 95_563_250_688),
    swin_s: (49_606_258, 8_740_875_264, 48_838_602, 187_604_990_976),
    swin_b: (87_768_224, 15_430_946_816, 86_745_016, None),
}


def macs(network, height, width):
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, height, width))
    return counter.get_total_flops() // 2


def torchvisions(**options):
    return SwinTransformer([4, 4], 32, [2, 2, 2, 2], [1, 2, 4, 8], [7, 7], stochastic_depth_prob=0.0, **options)


def randomised(network):
    """Weights whose every part shows in the output: normalisations and biases begin as ones and zeros otherwise."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_((parameter + 0.2 * noise) if parameter.dim() < 2 else 2 * parameter)
            if parameter.dim() == 2 and parameter.shape[0] == 169:
                parameter.copy_(noise)
    return network.eval()


def features_of(peer, x):
    """Outputs of the stages of torchvision's network, channels first, the last one normalised."""
    outputs = []
    for index, layer in enumerate(peer.features):
        x = layer(x)
        if index % 2:
            outputs.append(x.permute(0, 3, 1, 2))
    return [*outputs[:3], peer.norm(x).permute(0, 3, 1, 2)]


@pytest.mark.parametrize("build", mostly_slow(ZOO, {swin_t}))
def test_sizes_are_the_published_ones(build):
    parameters, multiplications, dense_parameters, dense_multiplications = ZOO[build]
    with torch.device("meta"):
        network, dense = classifier(build.__name__).eval(), build().eval()
        assert sum(p.numel() for p in network.parameters()) == parameters
        assert macs(network, 224, 224) == multiplications
        assert sum(p.numel() for p in dense.parameters()) == dense_parameters
        if dense_multiplications:
            assert macs(dense, 800, 1280) == dense_multiplications
    figures = published_figures()[build.__name__]
    assert (figures.parameters, figures.macs, figures.reading) == (parameters, multiplications, "verified")
    assert build.__name__ in list_backbones()


@pytest.mark.parametrize("build", mostly_slow(ZOO, {swin_t}))
def test_names_and_shapes_are_torchvisions(build):
    with torch.device("meta"):
        peer = torchvision.models.get_model(build.__name__)
        expected = {n: v.shape for n, v in peer.state_dict().items() if not n.endswith("relative_position_index")}
        ours = build(out_norms="last")
        converted = ours.convert(peer.state_dict())
    named = {n.replace("fc.", "head.") if n.startswith("fc.") else n: v.shape for n, v in converted.items()}
    assert named == expected
    assert {n: v.shape for n, v in ours.state_dict().items()} == {n: s for n, s in expected.items() if "head" not in n}
    assert ours.published_weights() == torchvision.models.get_model_weights(build.__name__).DEFAULT


@pytest.mark.parametrize("height, width", [(64, 96), (256, 100), (224, 224), (4, 32)])
def test_features_and_gradients_equal_torchvisions(height, width):
    peer = randomised(torchvisions(num_classes=3).double())
    ours = Swin(**TINY, out_norms="last").double()
    converted = ours.convert(peer.state_dict())
    ours.load_state_dict({n: v for n, v in converted.items() if not n.startswith("fc.")})
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    features, expected = ours(x), features_of(peer, x)
    for feature, value in zip(features, expected, strict=True):
        torch.testing.assert_close(feature, value, rtol=1e-9, atol=1e-9)
    features[3].sin().sum().backward()
    expected[3].sin().sum().backward()
    gradients = {n: p.grad for n, p in peer.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-9, atol=1e-9)


def test_images_are_filled_up_with_zeros():
    network = randomised(Swin(**TINY))
    x = torch.randn(1, 3, 45, 66)
    with torch.no_grad():
        for feature, value in zip(network(x), network(F.pad(x, (0, 2, 0, 3))), strict=True):
            assert torch.equal(feature, value)
        features = network(torch.randn(1, 3, 203, 331))
    assert [tuple(f.shape[1:]) for f in features] == [(32, 51, 83), (64, 26, 42), (128, 13, 21), (256, 7, 11)]


def test_torchvision_drops_a_partial_patch():
    peer, ours = randomised(torchvisions()), Swin(**TINY, out_norms="last").eval()
    ours.load_state_dict({n: v for n, v in ours.convert(peer.state_dict()).items() if not n.startswith("fc.")})
    x = torch.randn(1, 3, 46, 65)
    with torch.no_grad():
        assert [ours(x)[0].shape[2:], ours(x[..., :44, :64])[0].shape[2:]] == [(12, 17), (11, 16)]
        for feature, value in zip(ours(x[..., :44, :64]), features_of(peer, x), strict=True):
            torch.testing.assert_close(feature, value, rtol=1e-4, atol=1e-5)


def windowed_literally(attn, x, shift):
    """Microsoft's classification code: no shift at all where the map's smaller side is no larger than a window."""
    height, width = x.shape[1:3]
    shift = 0 if min(height, width) <= 7 else shift
    rows, columns = (torch.arange(side).roll(-shift) for side in (height, width))
    table = attn.relative_position_bias_table.view(13, 13, -1)
    out = torch.zeros_like(x)
    for top in range(0, height, 7):
        for left in range(0, width, 7):
            cells = [(int(r), int(c)) for r in rows[top : top + 7] for c in columns[left : left + 7]]
            # Whether the shift brought a cell here from the map's other end.
            strange = [(top + 7 == height and r < shift, left + 7 == width and c < shift) for r, c in cells]
            tokens = torch.stack([x[:, r, c] for r, c in cells], 1)  # (B, 49, C)
            places = [(i // 7, i % 7) for i in range(49)]
            query, key, value = attn.qkv(tokens).unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
            scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
            for i, (r, c) in enumerate(places):
                for j, (s, d) in enumerate(places):
                    scores[:, :, i, j] += table[r - s + 6, c - d + 6] - 100.0 * (strange[i] != strange[j])
            mixed = attn.proj((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
            for i, (r, c) in enumerate(cells):
                out[:, r, c] = mixed[:, i]
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(14, 7), (7, 21), (7, 7), (14, 21)])
def test_windows_are_shifted_along_both_sides_or_none(height, width):
    torch.manual_seed(0)
    together, by_side = (WindowAttention(64, 7, 3, 2, shift_together=on).double() for on in (True, False))
    torch.nn.init.normal_(together.relative_position_bias_table)
    by_side.load_state_dict(together.state_dict())
    x = torch.randn(2, height, width, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = windowed_literally(together, x, 3)
        torch.testing.assert_close(together(x), expected, rtol=1e-9, atol=1e-9)
        alike = (height == 7) == (width == 7)
        assert torch.allclose(by_side(x), expected, atol=1e-9) == alike


def test_scores_equal_timms():
    torch.manual_seed(0)
    peer = timm.create_model("swin_tiny_patch4_window7_224").eval()
    randomised(peer)
    ours = classifier("swin_t").eval()
    converted = ours.backbone.convert(peer.state_dict())
    ours.load_state_dict({n if n.startswith("fc.") else f"backbone.{n}": v for n, v in converted.items()})
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), peer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("height, width", [(65, 97), (254, 96)])  # on the last map one window; one along one side
def test_features_equal_mmsegmentations(height, width):
    backbones = pytest.importorskip("mmseg.models.backbones")
    peer = backbones.SwinTransformer(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), drop_path_rate=0.0)
    randomised(peer.double())
    ours = Swin(**TINY, shift_small_maps=True).double().eval()
    ours.load_state_dict(ours.convert(peer.state_dict()))
    x = torch.randn(1, 3, height, width, dtype=torch.float64)
    with torch.no_grad():
        features, expected = ours(x), peer(x)
        unshifted = Swin(**TINY).double().eval()
        unshifted.load_state_dict(ours.state_dict())
        assert not torch.allclose(unshifted(x)[3], expected[3], atol=1e-3)
    for feature, value in zip(features, expected, strict=True):
        torch.testing.assert_close(feature, value, rtol=1e-9, atol=1e-9)


def test_microsofts_layout_is_read():
    network = Swin(**TINY, out_norms="last")
    names = {"features.0.0": "patch_embed.proj", "features.0.2": "patch_embed.norm"}
    for stage in range(4):
        names |= {
            f"features.{2 * stage + 2}.{part}": f"layers.{stage}.downsample.{part}" for part in ("norm", "reduction")
        }
        for block in range(2):
            ours, theirs = f"features.{2 * stage + 1}.{block}", f"layers.{stage}.blocks.{block}"
            names |= {f"{ours}.{part}": f"{theirs}.{part}" for part in ("norm1", "norm2", "attn.qkv", "attn.proj")}
            names |= {f"{ours}.mlp.0": f"{theirs}.mlp.fc1", f"{ours}.mlp.3": f"{theirs}.mlp.fc2"}
    published = {}
    for name, value in network.state_dict().items():
        stem, part = name.rsplit(".", 1)
        if part == "relative_position_bias_table":
            name = f"layers.{(int(name.split('.')[1]) - 1) // 2}.blocks.{name.split('.')[2]}.attn.{part}"
        else:
            name = f"{names.get(stem, stem)}.{part}"
        published[name] = value
    published["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    published["layers.0.blocks.1.attn.relative_position_index"] = torch.zeros(49, 49)
    published["head.weight"] = torch.ones(5, 256)
    converted = network.convert(published)
    assert converted.pop("fc.weight") is published["head.weight"]
    assert converted.keys() == network.state_dict().keys()
    assert all(torch.equal(converted[name], value) for name, value in network.state_dict().items())


def test_unknown_entries_are_passed_on():
    entries = {"absolute_pos_embed": torch.zeros(1), "layers.0.blocks.0.attn.logit_scale": torch.zeros(1)}
    converted = Swin(**TINY).convert(entries)
    assert list(converted) == ["absolute_pos_embed", "features.1.0.attn.logit_scale"]


def test_tables_are_resized_on_their_grid():
    network = Swin(**TINY)
    name = "features.1.0.attn.relative_position_bias_table"
    offsets = torch.arange(-6.0, 7)
    table = torch.stack([offsets.view(-1, 1) + 0 * offsets, 0 * offsets.view(-1, 1) + 3 * offsets], -1).flatten(0, 1)
    resized = network.resize(name, table, (23 * 23, 2))
    rows = resized[:, 0].view(23, 23)
    columns = resized[:, 1].view(23, 23)
    assert torch.allclose(rows, rows[:, :1].expand(-1, 23)) and torch.allclose(columns, columns[:1].expand(23, -1))
    inner = (torch.arange(23) - 11) * 13 / 23  # cells keep their places; cubics nearly keep lines
    torch.testing.assert_close(rows[4:-4, 0], inner[4:-4], rtol=0, atol=0.06)
    torch.testing.assert_close(columns[0, 4:-4], 3 * inner[4:-4], rtol=0, atol=0.18)
    torch.testing.assert_close(network.resize(name, table, (169, 2)), table)
    assert network.resize(name, table, (169, 3)) is None
    assert network.resize("features.1.0.attn.qkv.weight", table, (23 * 23, 2)) is None


def test_dense_networks_normalise_every_map():
    torch.manual_seed(0)
    dense, last = Swin(**TINY).eval(), Swin(**TINY, out_norms="last").eval()
    loaded = {n: v for n, v in dense.state_dict().items() if not n.startswith("norm")}
    assert not last.load_state_dict(loaded, strict=False).unexpected_keys
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for index, (feature, plain) in enumerate(zip(dense(x), last(x), strict=True)):
            expected = plain if index == 3 else F.layer_norm(plain.permute(0, 2, 3, 1), plain.shape[1:2])
            torch.testing.assert_close(feature, expected if index == 3 else expected.permute(0, 3, 1, 2))
    norms = tuple(f"norm{index}." for index in range(4))
    assert dense.inserted_prefixes() == norms and last.inserted_prefixes() == ()
    assert "norm.weight".startswith(dense.classifier_prefixes)
    assert not "norm1.weight".startswith(dense.classifier_prefixes)


def test_depth_is_dropped_linearly():
    network = Swin(32, (1, 2, 1, 1), drop_path=0.4)
    rates = [block.stochastic_depth.p for stage in (1, 3, 5, 7) for block in network.features[stage]]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_initialisation_is_the_published_one():
    torch.manual_seed(0)
    network = Swin(**TINY)
    block = network.features[7][0]
    for weight in (block.mlp[0].weight, block.attn.qkv.weight, block.attn.relative_position_bias_table):
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not block.mlp[0].bias.any() and not block.attn.qkv.bias.any()
    assert classifier("swin_t").fc.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("stages", [(3, 4), (1, 2, 3, 4)])
def test_mixers_replace_window_attention(stages):
    torch.manual_seed(0)
    mixer = partial(StandAloneSelfAttention, heads=4, kernel_size=3)
    network = Swin(**TINY, mixer=mixer, mixer_stages=stages).eval()
    owners = {name.split(".")[1] for name, m in network.named_modules() if isinstance(m, StandAloneSelfAttention)}
    assert owners == {str(2 * stage - 1) for stage in stages}
    block = network.features[7][1]
    x = torch.randn(1, 3, 2, 256)
    mixed = x + block.attn(block.norm1(x).permute(0, 3, 1, 2).contiguous()).permute(0, 2, 3, 1)
    torch.testing.assert_close(block(x), mixed + block.mlp(block.norm2(mixed)))
    sum(feature.square().mean() for feature in network(torch.randn(1, 3, 67, 40))).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert "features.7.1.attn.".startswith(network.inserted_prefixes())


@pytest.mark.parametrize("application", ["window", "neighbourhood"])
def test_windows_of_a_mixer_are_shifted_in_every_other_block(application):
    mixer = partial(LocalFilter, application=application)
    with torch.device("meta"):
        network = Swin(32, (2, 3, 2, 2), mixer=mixer, mixer_stages=(2, 4))
    shifts = {name: m.shift for name, m in network.named_modules() if isinstance(m, LocalFilter)}
    shift = 3 if application == "window" else 0
    assert shifts == {
        "features.3.0.attn": 0,
        "features.3.1.attn": shift,
        "features.3.2.attn": 0,
        "features.7.0.attn": 0,
        "features.7.1.attn": shift,
    }


def test_window_attention_as_a_mixer_makes_the_same_network():
    own = randomised(Swin(**TINY, heads=(2, 4, 8, 16), shift_small_maps=True).double())
    mixed = Swin(**TINY, mixer=partial(WindowMixer, head_channels=16)).double().eval()
    state = {}
    for name, value in own.state_dict().items():
        if name.endswith((".qkv.weight", ".qkv.bias")):
            for part, projection in zip(value.chunk(3), ("query", "key", "value"), strict=True):
                state[name.replace("qkv", projection)] = part if part.dim() == 1 else part[:, :, None, None]
        elif name.endswith(".relative_position_bias_table"):
            state[name.replace("relative_position_bias_table", "relative_bias")] = value.flip(0).T
        else:
            projection = name.endswith("attn.proj.weight")
            state[name.replace("attn.proj", "attn.out")] = value[:, :, None, None] if projection else value
    mixed.load_state_dict(state)
    x = torch.randn(1, 3, 224, 448, dtype=torch.float64)  # windows fill every map
    with torch.no_grad():
        for feature, expected in zip(mixed(x), own(x), strict=True):
            torch.testing.assert_close(feature, expected, rtol=1e-9, atol=1e-9)


def test_without_relative_biases_nothing_depends_on_the_place_in_a_window():
    without = WindowAttention(32, 7, 3, 4, relative=False).double()
    assert [name for name, _ in without.named_parameters()] == ["qkv.weight", "qkv.bias", "proj.weight", "proj.bias"]
    zeroed = WindowAttention(32, 7, 3, 4).double()
    zeroed.load_state_dict(without.state_dict(), strict=False)
    torch.nn.init.zeros_(zeroed.relative_position_bias_table)
    x = torch.randn(2, 15, 9, 32, dtype=torch.float64)
    torch.testing.assert_close(without(x), zeroed(x), rtol=1e-12, atol=1e-12)
    unshifted = WindowAttention(32, 7, 0, 4, relative=False).double()
    torch.testing.assert_close(unshifted(x[:, :7, :7].flip(1, 2)), unshifted(x[:, :7, :7]).flip(1, 2))


def test_operators_keep_their_own_initialisation():
    class Ones(StandAloneSelfAttention):
        def __init__(self, *sizes):
            super().__init__(*sizes, heads=4)
            self.last = torch.nn.Linear(2, 2)
            torch.nn.init.ones_(self.last.weight)

    network = Swin(**TINY, mixer=Ones)
    assert all(torch.equal(m.last.weight, torch.ones(2, 2)) for m in network.modules() if isinstance(m, Ones))


def test_every_parameter_learns_and_checkpointing_changes_nothing():
    torch.manual_seed(0)
    plain = Swin(**{**TINY, "drop_path": 0.3}).double().train()
    network = copy.deepcopy(plain)
    network.checkpointing = True
    x = torch.randn(2, 3, 61, 90, dtype=torch.float64)
    kept = []
    for host in (plain, network):
        torch.manual_seed(1)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            loss = sum(feature.square().mean() for feature in host(x))
        loss.backward()
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 3
    for (name, p), q in zip(plain.named_parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-12, atol=1e-12, msg=name)
    torch.manual_seed(1)
    host = Swin(**TINY)
    sum(feature.square().mean() for feature in host(x.float())).backward()
    assert [n for n, p in host.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_stages_hold_every_parameter_and_stay_frozen():
    for norms in ("each", "last"):
        network = Swin(**TINY, out_norms=norms, frozen_stages=2).train()
        assert sum(map(len, network.layer_groups())) == len(list(network.parameters()))
        frozen = {n.split(".")[0] + "." + n.split(".")[1] for n, p in network.named_parameters() if not p.requires_grad}
        expected = {"features.0", "features.1"}
        assert frozen == (expected | {"norm0.weight", "norm0.bias"} if norms == "each" else expected)
        blocks = [*network.features[0].modules(), *network.features[1][1].modules()]
        assert not any(module.training for module in blocks)
        assert network.features[2].training


def test_compiled_networks_agree():
    network = randomised(Swin(**TINY | {"depths": (1, 2, 1, 1)}).double())
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    x = torch.randn(1, 3, 65, 40, dtype=torch.float64)
    with torch.no_grad():
        for feature, value in zip(compiled(x), network(x), strict=True):
            torch.testing.assert_close(feature, value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_channels": 100}, "embed_channels=100 .*32"),
        ({"embed_channels": 100, "heads": (4, 8, 16, 3)}, "channels of stage 4=800 .*heads=3"),
        ({"heads": (3, 0, 12, 24)}, "heads=0 "),
        ({"window": 0}, "window=0 "),
        ({"depths": (2, 0, 2, 2)}, "depths=0 "),
        ({"mixer_stages": (0,)}, r"mixer_stages=\(0,\) .*1, 2, 3, 4"),
        ({"out_norms": "all"}, "out_norms='all' .*each, last"),
        ({"drop_path": 1.0}, "drop_path=1.0 "),
        (
            {"shift_small_maps": True, "shift_together": True},
            "shift_small_maps and shift_together contradict each other",
        ),
        ({"frozen_stages": 6}, "stages=6 "),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        Swin(**options)


def test_masked_windows_leave_no_subnormal_numbers():
    """With exp(-100) times the values of another region, matrix products of a CPU are many times slower."""
    torch.manual_seed(0)
    attention = WindowAttention(64, 7, 3, 2)
    torch.nn.init.zeros_(attention.qkv.bias)  # as networks start
    seen = []
    attention.proj.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    attention(torch.randn(1, 16, 16, 64))
    (mixed,) = seen
    assert (mixed == 0).any()  # tokens that only fill up the last windows see nothing
    assert not ((mixed != 0) & (mixed.abs() < torch.finfo(torch.float32).tiny)).any()
