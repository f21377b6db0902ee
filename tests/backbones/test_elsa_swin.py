"""ELSA-Swin: published sizes, the authors' layout of weights, and the differences between their two backbones."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from attention import ELSA
from backbones import ELSASwin, Swin
from backbones.swin_block import WindowAttention
from backbones.zoo.elsa import elsa_swin_b, elsa_swin_s, elsa_swin_t
from backbones.zoo.registry import classifier, published_figures
from tests.selection import mostly_slow

TINY = {"embed_channels": 32, "depths": (1, 1, 1, 2), "kernel_size": 3, "drop_path": 0.0}
# Parameters; per stage with merging; dense; multiplications of convolutions and matrices, and one per cell of the sums.
ZOO = {
    elsa_swin_t: (
        *(29_140_978, (339_494, 1_281_868, 12_560_328, 14_183_856), 28_373_322),
        *((4_637_180_928, 66_382_848), (95_477_637_120, 1_354_752_000)),
    ),
    elsa_swin_s: (
        *(52_874_626, (364_582, 1_332_044, 36_218_712, 14_183_856), 52_106_970),
        *((9_334_858_752, 110_638_080), (191_348_613_120, 2_257_920_000)),
    ),
    elsa_swin_b: (
        *(92_682_464, (624_600, 2_325_808, 63_495_216, 25_203_264), 91_659_256),
        *((16_368_660_992, 147_517_440), None),
    ),
}


def count(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def macs(network, height, width):
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, height, width))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("build", mostly_slow(ZOO, {elsa_swin_t}))
def test_sizes_are_the_published_ones(build):
    parameters, stages, dense_parameters, small, large = ZOO[build]
    with torch.device("meta"):
        network, dense = classifier(build.__name__).eval(), build().eval()
        assert count(network) == parameters and count(dense) == dense_parameters
        # The published statement counts two per cell: for the attention and for the ghost kernels.
        assert macs(network, 224, 224) == small[0] + 2 * small[1]
        if large:
            assert macs(dense, 800, 1280) == large[0] + 2 * large[1]
    layers = dense.features  # the authors count the merging behind a stage to it
    assert tuple(count(*layers[2 * index + 1 : 2 * index + 3]) for index in range(4)) == stages
    figures = published_figures()[build.__name__]
    assert (figures.parameters, figures.macs) == (parameters, small[0] + 2 * small[1])


def test_stages_one_to_three_have_elsa_and_the_fourth_has_windows():
    network = ELSASwin(**TINY)
    kinds = [{type(block.attn) for block in network.features[index]} for index in (1, 3, 5, 7)]
    assert kinds == [{ELSA}] * 3 + [{WindowAttention}]
    for stage, (index, heads) in enumerate(((1, 1), (3, 2), (5, 4))):
        elsa = network.features[index][0].attn
        assert (elsa.heads, elsa.scale, elsa.mul_power, elsa.border) == (heads, 1.0, 0, "zero")
        assert elsa.attn[0].weight.shape[1:] == (4, 3, 3) and elsa.ghost_head.shape == (1, 32 * 2**stage, 3, 3)
    assert network.label == "ELSA-Swin" and ELSASwin().label == "ELSA-Swin-T"
    assert network.published_weights() is None


def test_the_blocks_are_swins():
    torch.manual_seed(0)
    network = ELSASwin(**TINY).eval()
    block = network.features[1][0]
    x = torch.randn(2, 9, 7, 32)
    mixed = x + block.attn(block.norm1(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(block(x), mixed + block.mlp(block.norm2(mixed)))


def authors_entries(network, generator):
    """Entries of the authors' classification network, in the shapes that its code has, with random values."""
    sizes = {"patch_embed.proj": (32, 3, 4, 4), "patch_embed.norm": (32,), "norm": (256,), "head": (5, 256)}
    entries = {}
    for stage, depth in enumerate(TINY["depths"]):
        wide = 32 * 2**stage
        for index in range(depth):
            block = f"layers.{stage}.blocks.{index}"
            sizes |= {f"{block}.norm1": (wide,), f"{block}.norm2": (wide,)}
            sizes |= {f"{block}.mlp.fc1": (4 * wide, wide), f"{block}.mlp.fc2": (wide, 4 * wide)}
            if stage < 3:
                qk = {32: 20, 64: 44, 128: 84}[wide]
                sizes[f"{block}.attn.pre_proj"] = (2 * qk + wide, wide, 1, 1)
                sizes |= {f"{block}.attn.attn.0": (qk, 4, 3, 3), f"{block}.attn.attn.2": (wide // 32 * 9, qk, 1, 1)}
                entries[f"{block}.attn.ghost_head"] = torch.randn(1, wide, 3, 3, generator=generator)
            else:
                sizes[f"{block}.attn.pre_proj"] = (3 * wide, wide)
                entries[f"{block}.attn.rb"] = torch.randn(wide // 32, 169, generator=generator)
                entries[f"{block}.attn.relative_id"] = torch.zeros(2401, dtype=torch.int64)
            sizes[f"{block}.attn.post_proj"] = (wide, wide)
        if stage < 3:
            entries[f"layers.{stage}.downsample.reduction.weight"] = torch.randn(
                2 * wide, 4 * wide, generator=generator
            )
            sizes[f"layers.{stage}.downsample.norm"] = (4 * wide,)
    for name, shape in sizes.items():
        entries[f"{name}.weight"] = torch.randn(shape, generator=generator)
        entries[f"{name}.bias"] = torch.randn(shape[0], generator=generator)
    return entries


def test_the_authors_layout_is_read():
    network = ELSASwin(**TINY, out_norms="last")
    entries = authors_entries(network, torch.Generator().manual_seed(0))
    converted = network.convert(entries)
    assert converted.pop("fc.weight") is entries["head.weight"] and converted.pop("fc.bias") is entries["head.bias"]
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    assert {name: value.shape for name, value in converted.items()} == shapes
    for name, theirs in (
        ("features.0.0.bias", "patch_embed.proj.bias"),
        ("features.3.0.attn.ghost_head", "layers.1.blocks.0.attn.ghost_head"),
        ("features.5.0.attn.pre_proj.weight", "layers.2.blocks.0.attn.pre_proj.weight"),
        ("features.1.0.attn.attn.2.bias", "layers.0.blocks.0.attn.attn.2.bias"),
        ("features.1.0.attn.post_proj.bias", "layers.0.blocks.0.attn.post_proj.bias"),
        ("features.4.reduction.weight", "layers.1.downsample.reduction.weight"),
        ("features.7.1.mlp.3.weight", "layers.3.blocks.1.mlp.fc2.weight"),
        ("features.7.1.attn.proj.bias", "layers.3.blocks.1.attn.post_proj.bias"),
    ):
        assert converted[name] is entries[theirs]
    own = network.convert(network.state_dict())
    assert own.keys() == network.state_dict().keys()


def test_the_authors_window_attention_is_the_same_function():
    """Written out from their layout: value, query, key; bias rb[head, transposed index]; scale of Swin."""
    network = ELSASwin(**TINY, out_norms="last").double().eval()
    entries = authors_entries(network, torch.Generator().manual_seed(0))
    entries = {name: value.double() for name, value in entries.items()}
    converted = {name: value for name, value in network.convert(entries).items() if not name.startswith("fc.")}
    network.load_state_dict(converted)
    prefix = "layers.3.blocks.0.attn."
    x = torch.randn(2, 7, 7, 256, dtype=torch.float64)
    tokens = x.flatten(1, 2)
    projected = F.linear(tokens, entries[prefix + "pre_proj.weight"], entries[prefix + "pre_proj.bias"])
    value, query, key = projected.unflatten(2, (3, 8, 32)).permute(2, 0, 3, 1, 4)
    places = torch.cartesian_prod(torch.arange(7), torch.arange(7))
    offsets = places.unsqueeze(0) - places.unsqueeze(1) + 6  # key - query: the transpose of Swin's query - key
    bias = entries[prefix + "rb"][:, offsets[..., 0] * 13 + offsets[..., 1]]
    weights = torch.softmax(query @ key.transpose(2, 3) * 32**-0.5 + bias, -1)
    mixed = (weights @ value).transpose(1, 2).reshape(2, 49, 256)
    expected = F.linear(mixed, entries[prefix + "post_proj.weight"], entries[prefix + "post_proj.bias"])
    torch.testing.assert_close(network.features[7][0].attn(x).flatten(1, 2), expected, rtol=1e-9, atol=1e-9)


def test_detection_and_classification_differ_in_the_shift_of_small_maps_alone():
    torch.manual_seed(0)
    published, shifted = ELSASwin(**TINY).eval(), ELSASwin(**TINY, shift_small_maps=True).eval()
    shifted.load_state_dict(published.state_dict())
    with torch.no_grad():
        for size, same in ((64, False), (256, True)):  # stage 4 has 2 x 2 or 8 x 8 cells
            x = torch.randn(1, 3, size, size)
            first, second = published(x), shifted(x)
            assert all(torch.equal(a, b) for a, b in zip(first[:3], second[:3], strict=True))
            assert torch.allclose(first[3], second[3], atol=1e-5) == same


@pytest.mark.slow
def test_the_authors_classifier_shifts_nothing_in_a_last_map_of_14_x_7():
    """What it computes at 448 x 224 pixels, with the shift of the last stage taken out by hand."""
    torch.manual_seed(0)
    together, by_side, unshifted = (ELSASwin(**TINY, shift_together=on).eval() for on in (True, False, False))
    unshifted.features[7][1].attn.shift_size = [0, 0]
    for network in (by_side, unshifted):
        network.load_state_dict(together.state_dict())
    with torch.no_grad():
        for height, width, same in [(448, 224, False), (224, 448, False), (224, 224, True)]:
            x = torch.randn(1, 3, height, width)
            last = together(x)[3]
            assert torch.equal(last, unshifted(x)[3]) and torch.allclose(last, by_side(x)[3], atol=1e-5) == same


def test_images_of_every_size():
    network = ELSASwin(**TINY).eval()
    with torch.no_grad():
        features = network(torch.randn(1, 3, 203, 331))
        assert [tuple(f.shape[1:]) for f in features] == [(32, 51, 83), (64, 26, 42), (128, 13, 21), (256, 7, 11)]
        assert [tuple(f.shape[2:]) for f in network(torch.randn(1, 3, 33, 1))] == [(9, 1), (5, 1), (3, 1), (2, 1)]


def test_every_parameter_learns_and_checkpointing_changes_nothing():
    torch.manual_seed(0)
    plain = ELSASwin(**{**TINY, "drop_path": 0.3}).double().train()
    network = copy.deepcopy(plain)
    network.checkpointing = True
    x = torch.randn(2, 3, 61, 90, dtype=torch.float64)
    for host in (plain, network):
        torch.manual_seed(3)
        sum(feature.square().mean() for feature in host(x)).backward()
    assert [n for n, p in plain.named_parameters() if p.grad is None or not p.grad.any()] == []
    for (name, p), q in zip(plain.named_parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-12, atol=1e-12, msg=name)


def test_operators_keep_their_initialisation():
    torch.manual_seed(0)
    elsa = ELSASwin(**TINY).features[5][0].attn
    bound = elsa.pre_proj.in_channels**-0.5
    assert bound * 0.9 < elsa.pre_proj.weight.abs().max() <= bound  # PyTorch's default, as the authors leave it
    assert elsa.ghost_head.std().item() == pytest.approx(0.02, rel=0.1)
    assert elsa.post_proj.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_no_map_is_copied_between_formats():
    """To ELSA the block's maps are views in the format channels_last, both ways."""
    network = ELSASwin(**TINY).eval()
    seen = []

    def watch(module, inputs, output):
        seen.append((inputs[0].data_ptr(), output.permute(0, 2, 3, 1).is_contiguous()))

    block = network.features[1][0]
    block.norm1.register_forward_hook(lambda module, inputs, output: seen.append(output.data_ptr()))
    block.attn.register_forward_hook(watch)
    with torch.no_grad():
        network(torch.randn(1, 3, 64, 64))
    assert seen[1] == (seen[0], True)


@pytest.mark.slow
def test_compiled_networks_agree():
    torch.manual_seed(0)
    network = ELSASwin(**TINY).double().eval()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    x = torch.randn(1, 3, 65, 40, dtype=torch.float64)
    with torch.no_grad():
        for feature, value in zip(compiled(x), network(x), strict=True):
            torch.testing.assert_close(feature, value, rtol=1e-9, atol=1e-9)


def test_swins_weights_are_no_weights_of_this_network():
    network = ELSASwin(**TINY)
    assert isinstance(network, Swin) and isinstance(network.norm0, nn.LayerNorm)
    assert network.inserted_prefixes() == tuple(f"norm{index}." for index in range(4))
    assert ELSASwin(**TINY, out_norms="last").inserted_prefixes() == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"group_width": 0}, "group_width=0 "), ({"kernel_size": 4}, "kernel_size=4 "), ({"window": 0}, "window=0 ")],
)
def test_wrong_arguments_are_named_with_a_remedy(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        ELSASwin(**options)
