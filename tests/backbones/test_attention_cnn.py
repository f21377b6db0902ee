"""The encoder of 2 x 2 blocks of pixels: published sizes, its layers by their equations, and every image size."""

import copy
import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from attention.content_relative import ContentRelativeSelfAttention
from attention.learned_relative import LearnedRelativeSelfAttention
from attention.quadratic import QuadraticSelfAttention
from backbones import AttentionCNN, classifier, load_weights, published_figures

TINY = {"layers": 2, "embed_channels": 12, "hidden_channels": 7}
MIXERS = {
    "quadratic": partial(QuadraticSelfAttention, heads=3),
    "full": partial(QuadraticSelfAttention, heads=3, covariance="full"),
    "learned": partial(LearnedRelativeSelfAttention, heads=3, size=4),
    "content": partial(ContentRelativeSelfAttention, heads=3, size=4),
}
SIZES = {
    ("attention_cnn_quadratic",): 12_086_844,
    ("attention_cnn_quadratic", "full"): 12_087_006,
    ("attention_cnn_learned",): 12_278_682,
    ("attention_cnn_content",): 29_601_882,
}


@pytest.mark.parametrize("key", SIZES)
def test_sizes_are_the_published_ones(key):
    with torch.device("meta"):
        network = classifier(key[0], 10, **({"covariance": key[1]} if key[1:] else {})).eval()
    assert sum(p.numel() for p in network.parameters()) == SIZES[key]


# Multiply-accumulates of a layer's attention: 9 heads, 400 channels, 16 x 16 positions.
SEPARABLE = 9 * 400 * (2 * 16**3 + 16**2 * 400)
TABLES = 2 * 31 * 400 * 9
CONTENT = 2 * 9 * 400 * 16**2 * 400 + 2 * 9 * 16**4 * 400 + 9 * 400 * 16**2 * 400


@pytest.mark.parametrize(
    ("name", "attention"),
    [("quadratic", SEPARABLE), ("learned", SEPARABLE + TABLES), ("content", CONTENT + TABLES)],
)
def test_operations_are_those_of_the_layers(name, attention):
    expected = 6 * (attention + 16**2 * (400**2 + 2 * 400 * 512)) + 16**2 * 12 * 400 + 400 * 10
    with torch.device("meta"):
        network = classifier(f"attention_cnn_{name}", 10).eval()
        with FlopCounterMode(display=False) as counter:
            assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert counter.get_total_flops() == 2 * expected
    figures = published_figures()[f"attention_cnn_{name}"]
    assert (figures.parameters, figures.macs) == (SIZES[(f"attention_cnn_{name}",)], expected)
    assert (figures.size, figures.classes, figures.reading) == (32, 10, "reconstruction")


def reference(network, x):
    """The output, from the equations, every block of pixels read out on its own."""
    state = network.state_dict()

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return centred / spread * state[f"{name}.weight"] + state[f"{name}.bias"]

    rows, columns = math.ceil(x.shape[2] / 2), math.ceil(x.shape[3] / 2)
    blocks = x.new_zeros(len(x), rows, columns, 3, 2, 2)
    for y in range(x.shape[2]):
        for z in range(x.shape[3]):
            blocks[:, y // 2, z // 2, :, y % 2, z % 2] = x[:, :, y, z]
    x = linear(blocks.flatten(3), "embed")
    for index, layer in enumerate(network.layers):
        name = f"layers.{index}"
        mixed = layer.mixer(x.permute(0, 3, 1, 2).contiguous()).permute(0, 2, 3, 1)
        x = norm(x + linear(mixed, f"{name}.project"), f"{name}.norm1")
        hidden = linear(x, f"{name}.fc1")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        x = norm(x + linear(hidden, f"{name}.fc2"), f"{name}.norm2")
    return x.permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("size", [(8, 8), (5, 9), (1, 3)])
def test_the_map_follows_the_equations(name, size):
    torch.manual_seed(0)
    network = AttentionCNN(MIXERS[name], **TINY).double().eval()
    for parameter in network.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        (feature,) = network(x)
        torch.testing.assert_close(feature, reference(network, x), rtol=1e-9, atol=1e-9)
    assert feature.shape == (2, 12, math.ceil(size[0] / 2), math.ceil(size[1] / 2))
    assert (network.channels, network.strides) == ((12,), (2,))


@pytest.mark.parametrize("name", MIXERS)
def test_every_parameter_gets_the_same_gradient_with_checkpointing(name):
    torch.manual_seed(0)
    plain = AttentionCNN(MIXERS[name], **TINY)
    saving = AttentionCNN(MIXERS[name], **TINY, checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 33, 32)
    for network in (plain, saving):
        torch.manual_seed(1)  # for dropout
        network(x)[0][:, :6].square().sum().backward()
    for (label, p), q in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert p.grad is not None and p.grad.isfinite().all() and torch.equal(p.grad, q.grad)
        assert p.grad.any() or label.endswith("key.bias")  # a key's bias cancels in the softmax


def test_large_images_with_odd_sides():
    network = AttentionCNN(MIXERS["quadratic"], **TINY).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 203, 331))[0].shape == (1, 12, 102, 166)


def test_tables_of_another_size_are_interpolated(tmp_path):
    source = AttentionCNN(MIXERS["learned"], **TINY)
    offsets = torch.arange(-3.0, 4.0)
    source.layers[0].mixer.row_encodings.weight.data = offsets.unsqueeze(1).repeat(1, 12)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    larger = AttentionCNN(partial(LearnedRelativeSelfAttention, heads=3, size=8), **TINY)
    load_weights(larger, str(tmp_path / "weights.pth"))
    table = larger.layers[0].mixer.row_encodings.weight[:, 0]
    assert table.shape == (15,)
    torch.testing.assert_close(table[7], torch.tensor(0.0), atol=1e-6, rtol=0)  # no offset stays no offset
    torch.testing.assert_close(table, -table.flip(0))
    torch.testing.assert_close(
        table[5:10], torch.arange(-2.0, 3.0) * 7 / 15, atol=0.03, rtol=0
    )  # bicubic: a line nearly
    assert larger.resize("layers.0.fc1.weight", torch.zeros(3, 12), (4, 12)) is None
    assert larger.resize("layers.0.mixer.row_encodings.weight", torch.zeros(7, 12), (15, 13)) is None


def test_frozen_stages_stay_frozen_in_training():
    network = AttentionCNN(MIXERS["quadratic"], **TINY, frozen_stages=2).train()
    before = copy.deepcopy(network.state_dict())
    network(torch.randn(1, 3, 8, 8))[0][:, :5].sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == name.startswith(("embed.", "layers.0."))
    assert not network.layers[0].dropout.training and network.layers[1].dropout.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert len(network.stages()) == 3 and len(network.layer_groups()) == 3


def test_any_mixer_fits():
    from attention import HaloAttention

    network = AttentionCNN(partial(HaloAttention, block=4, halo=1, heads=2), **TINY)
    assert network(torch.randn(1, 3, 17, 10))[0].shape == (1, 12, 9, 5)


def test_positions_are_normalised_last():
    network = AttentionCNN(MIXERS["quadratic"], **TINY).eval()
    with torch.no_grad():
        (feature,) = network(torch.randn(2, 3, 8, 8))
    expected = F.layer_norm(feature.permute(0, 2, 3, 1), (12,)).permute(0, 3, 1, 2)
    torch.testing.assert_close(feature, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "layers=0"),
        ({"embed_channels": 0}, "embed_channels=0"),
        ({"dropout": 1.0}, "dropout=1.0 is no probability"),
        ({"frozen_stages": 9}, "frozen stages=9"),
        ({"weights": "imagenet"}, "imagenet"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        AttentionCNN(**{**TINY, **options})
