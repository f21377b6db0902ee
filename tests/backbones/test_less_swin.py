"""Swin with less attention: Swin where nothing changes, its equations over all pairs of cells, weights, the loss."""

import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.swin_transformer import ShiftedWindowAttention

from attention.attention_residual import AttentionResidual
from attention.diagonality import diagonality_loss
from attention.lavit import LessAttention
from backbones import LessSwin, Swin, load_weights

TINY = {"embed_channels": 32, "depths": (2, 1, 4, 3), "window": 3, "drop_path": 0.0}
STAGES = {
    "as Swin-T": {"vanilla": (2, 2, 2, 1), "residual_stages": (4,)},
    "everywhere": {"vanilla": (1, 1, 3, 1), "residual_stages": (2, 3, 4)},
    "residuals alone": {"vanilla": (9, 9, 9, 9), "residual_stages": (3, 4)},
    "less attention alone": {"vanilla": (1, 1, 2, 2), "residual_stages": ()},
    "low rank": {"vanilla": (1, 1, 1, 1), "residual_stages": (3,), "rank": 2, "pooling": "separable"},
}


def randomised(network):
    """A network in double precision in which every parameter shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return network.double().eval()


def windows_of(height, width, side):
    """For cells of a map: number of the window, and place in it, (H W) each."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (row // side * 1000 + column // side).flatten(), (row % side * side + column % side).flatten()


def deviation(transform):
    return transform.weight if transform.full else transform.up @ transform.down.T


def residual(module, scores, size, new_size):
    """Scores of all pairs of cells of a map, pooled over 2 x 2 queries and 2 x 2 keys into those of a map of half."""
    rows, columns = new_size
    grid = scores.unflatten(3, size).unflatten(2, size)
    missing = (2 * columns - size[1], 2 * rows - size[0])
    grid = F.pad(grid, (0, missing[0], 0, missing[1], 0, missing[0], 0, missing[1]))
    pooled = 0
    for query in range(4):
        for key in range(4):
            if module.pooling == "blocks":
                weight = module.pool[0][:, 0, query, key]
            else:
                weight = module.pool[0].flatten(1)[:, query] * module.pool[1].flatten(1)[:, key]
            cells = grid[:, :, query // 2 :: 2, query % 2 :: 2, key // 2 :: 2, key % 2 :: 2]
            pooled = pooled + weight.view(-1, 1, 1, 1, 1) * cells
    pooled = pooled.flatten(4).flatten(2, 3) + module.pool_bias.view(-1, 1, 1)
    mixed = torch.einsum("oh,bhqk->boqk", module.mix, pooled) + module.mix_bias.view(-1, 1, 1)
    return mixed * module.gamma


def reference(network, x):
    """Features with scores of all pairs of cells of the whole map; pairs in different windows have weight zero."""
    side, features, last = network.window, [], None
    x = network.features[0](F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4)))
    for stage in range(4):
        if stage:
            x = network.features[2 * stage](x)
        height, width = x.shape[1:3]
        padded = (-(-height // side) * side, -(-width // side) * side)
        window, place = windows_of(*padded, side)
        together = window.unsqueeze(1) == window
        inside = F.pad(torch.ones(height, width, dtype=torch.bool), (0, padded[1] - width, 0, padded[0] - height))
        both = together & inside.flatten() & inside.flatten().unsqueeze(1)
        scores = None
        for number, block in enumerate(network.features[2 * stage + 1]):
            attention, normed = block.attn, block.norm1(x)
            less = number >= network.vanilla[stage]
            if not less and number % 2:
                mixed = ShiftedWindowAttention.forward(attention, normed)
            else:
                heads = network.heads[stage]
                tokens = F.pad(normed, (0, 0, 0, padded[1] - width, 0, padded[0] - height)).flatten(1, 2)
                if less:
                    counted = both.double()
                    for transform in (attention.theta, attention.psi):
                        matrix = (deviation(transform) + torch.eye(side**2))[place][:, place] * counted
                        scores = ((scores @ matrix.T + transform.bias[place]) * counted).transpose(2, 3)
                    weights = scores.masked_fill(~(together & inside.flatten()), -torch.inf).softmax(3)
                    values, projection = attention.v(tokens), attention.proj
                else:
                    query, key, values = attention.qkv(tokens).chunk(3, 2)
                    query, key = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (query, key))
                    y, z = place // side, place % side
                    offset = (y.unsqueeze(1) - y + side - 1) * (2 * side - 1) + z.unsqueeze(1) - z + side - 1
                    offset = offset * together  # tables have no entries for others
                    scores = query @ key.transpose(2, 3) / 32**0.5
                    scores = scores + attention.relative_position_bias_table[offset].permute(2, 0, 1)
                    if number == 0 and stage + 1 in network.residual_stages:
                        module = getattr(network, f"attn_down{stage + 1}")
                        scores = scores + residual(module, *last, padded)
                    weights = scores.masked_fill(~together, -torch.inf).softmax(3)
                    projection = attention.proj
                    scores = scores * both
                mixed = (weights @ values.unflatten(2, (heads, -1)).transpose(1, 2)).transpose(1, 2).flatten(2)
                mixed = projection(mixed).unflatten(1, padded)[:, :height, :width]
            x = x + mixed
            x = x + block.mlp(block.norm2(x))
        # scores of the map as far as the next one's windows reach
        far = tuple(math.ceil(size / (2 * side)) * side * 2 for size in (height, width))
        grid = scores.unflatten(3, padded).unflatten(2, padded)
        more = (0, far[1] - padded[1], 0, far[0] - padded[0])
        last = (F.pad(grid, more * 2).flatten(4).flatten(2, 3), far)
        features.append(getattr(network, f"norm{stage}")(x).permute(0, 3, 1, 2))
    return features


@pytest.mark.parametrize("size", [(96, 96), (61, 90), (33, 20)])
@pytest.mark.parametrize("stages", STAGES)
def test_features_and_gradients_are_those_of_the_equations(stages, size):
    torch.manual_seed(0)
    network = randomised(LessSwin(**TINY, **STAGES[stages]))
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    leaves = [x, *network.parameters()]
    found, expected = network(x), reference(network, x)
    directions = [torch.randn_like(feature) for feature in found]
    gradients = torch.autograd.grad(found, leaves, directions, allow_unused=True)
    expected_gradients = torch.autograd.grad(expected, leaves, directions, allow_unused=True)
    for feature, value in zip(found, expected, strict=True):
        torch.testing.assert_close(feature, value, rtol=1e-9, atol=1e-9)
    for name, one, other in zip(["x", *dict(network.named_parameters())], gradients, expected_gradients, strict=True):
        assert one is not None and other is not None, name
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_vanilla_blocks_without_residuals_are_swin():
    options = {"embed_channels": 32, "depths": (2, 2, 3, 1), "drop_path": 0.0}
    swin, network = Swin(**options).eval(), LessSwin(**options, vanilla=(2, 2, 3, 1), residual_stages=()).eval()
    network.load_state_dict(swin.state_dict())
    x = torch.randn(1, 3, 130, 75)
    assert all(torch.equal(a, b) for a, b in zip(network(x), swin(x), strict=True))


def test_sizes():
    """Less attention has no queries, keys and bias by offset, but two transforms of 49 x 49; residuals have little."""
    with torch.device("meta"):
        network = LessSwin()
        count = sum(p.numel() for p in network.parameters())
    saved = sum(n * (2 * c * c + 2 * c + 169 * h) for n, c, h in ((4, 384, 12), (1, 768, 24)))
    added = 5 * 2 * (49**2 + 49) + (16 * 12 + 12) + (12 * 24 + 24) + 24
    assert count == 27_520_698 - saved + added == 25_169_666
    kinds = [type(block.attn).__name__ for stage in range(4) for block in network.features[2 * stage + 1]]
    assert kinds == ["WindowAttention"] * 6 + ["LessAttention"] * 4 + ["WindowAttention", "LessAttention"]
    assert network.label == "Less-Swin-T" and network.network_options()["vanilla"] == (2, 2, 2, 1)
    assert [len(stage) for stage in network.stages()] == [1, 3, 4, 8, 5]


def test_weights_of_swin_start_less_attention(tmp_path):
    torch.manual_seed(0)
    swin = randomised(Swin(**TINY))
    torch.save(swin.state_dict(), tmp_path / "swin.pth")
    network = LessSwin(**TINY, vanilla=(1, 1, 1, 2), weights=str(tmp_path / "swin.pth")).double().eval()
    assert network.start == "pretrained host"
    less, source = network.features[5][3].attn, swin.features[5][3].attn
    assert torch.equal(less.v.weight, source.qkv.weight[256:].float().double())
    assert torch.equal(less.v.bias, source.qkv.bias[256:].float().double())
    assert torch.equal(less.proj.weight, source.proj.weight.float().double())
    x = torch.randn(1, 3, 64, 48, dtype=torch.float64)
    stage = [layer.attn for layer in network.features[5]]
    scores = []
    for attention in stage[1:]:
        attention.register_forward_hook(lambda _module, inputs, output: scores.append((inputs[1], output[1])))
    features = network(x)
    for given, made in scores:  # the attention of the block before
        torch.testing.assert_close(given, made)
    torch.save(network.state_dict(), tmp_path / "less.pth")
    again = LessSwin(**TINY, vanilla=(1, 1, 1, 2), weights=str(tmp_path / "less.pth")).double().eval()
    assert again.start == "pretrained" and all(torch.equal(a, b) for a, b in zip(features, again(x), strict=True))
    wider = LessSwin(**{**TINY, "window": 5}, vanilla=(1, 1, 1, 2))
    load_weights(wider, str(tmp_path / "less.pth"))
    assert wider.features[5][3].attn.theta.weight.shape == (25, 25)


@pytest.mark.parametrize("options", [{}, {"rank": 2, "pooling": "literal"}])
def test_every_parameter_gets_the_same_gradient_with_checkpointing(options):
    options = {**TINY, **STAGES["everywhere"], **options, "diagonality": 0.1}
    plain = randomised(LessSwin(**options)).train()
    saving = LessSwin(**options, checkpointing=True).double()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 75, 66, dtype=torch.float64)
    for network in (plain, saving):
        (sum(feature.sin().mean() for feature in network(x)) + network.auxiliary_loss()).backward()
    for (name, p), q in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert p.grad is not None and p.grad.any() and torch.equal(p.grad, q.grad), name


def test_auxiliary_loss_is_the_diagonality_of_less_attention():
    network = randomised(LessSwin(**TINY, vanilla=(2, 1, 3, 1), diagonality=0.25)).train()
    scores = []
    for part in network.modules():
        if isinstance(part, LessAttention):
            part.register_forward_hook(lambda _module, _inputs, output: scores.append(output[1]))
    network(torch.randn(1, 3, 96, 64, dtype=torch.float64))
    places = [[0, 1, 3, 4, 6, 7]] * 2  # a map of 3 x 2 cells at stride 32
    expected = sum(diagonality_loss(each[..., p, :][..., p]) for each, p in zip(scores[1:], places, strict=True))
    valid = torch.ones(4, 9, dtype=torch.bool)
    valid[1, [1, 2, 4, 5, 7, 8]] = valid[3, [1, 2, 4, 5, 7, 8]] = False  # 6 x 4 cells at stride 16
    expected = 0.25 * (expected + diagonality_loss(scores[0], valid=valid))
    torch.testing.assert_close(network.auxiliary_loss(), expected)
    assert network.auxiliary_loss() is None
    network.eval()(torch.randn(1, 3, 64, 64, dtype=torch.float64))
    assert network.auxiliary_loss() is None


@pytest.mark.parametrize("maps", [(0, 1, 2), (1,), (3,)])
def test_residuals_of_unused_stages_are_left_out(maps):
    network = LessSwin(**TINY, **STAGES["everywhere"], out_indices=maps)
    sum(feature.square().mean() for feature in network(torch.randn(1, 3, 64, 48))).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    assert sum(isinstance(part, AttentionResidual) for part in network.modules()) == maps[-1]


def test_half_precision():
    network = LessSwin(**TINY, **STAGES["everywhere"]).eval()
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        expected = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = network(x)
    for feature, value in zip(found, expected, strict=True):
        torch.testing.assert_close(feature.float(), value, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vanilla": (0, 1, 1, 1)}, "vanilla=0"),
        ({"residual_stages": (1,)}, "residual_stages=\\(1,\\) need a stage before"),
        ({"diagonality": -0.1}, "diagonality=-0.1"),
        ({"rank": 0, "vanilla": (1, 1, 1, 1)}, "rank=0"),
        ({"pooling": "none"}, "pooling='none'"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        LessSwin(**{**TINY, **options})
