"""LaViT: sizes of our stages, the published mechanism written out globally, windows, and the loss of its scores."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attention.diagonality import diagonality_loss
from attention.lavit import LessAttention, VanillaAttention
from backbones import (
    Classifier,
    LaViT,
    LessSwin,
    classifier,
    lavit_b,
    lavit_s,
    lavit_t,
    load_weights,
    published_figures,
)
from tasks.profile.counting import count_macs
from tests.selection import mostly_slow

TINY = {
    "depths": (1, 1, 3, 2),
    "vanilla": (1, 1),
    "embed_channels": (6, 8, 12, 16),
    "heads": (1, 2, 2, 4),
    "mlp_ratios": (2, 2, 1, 1),
    "reductions": (4, 2),
    "window": 4,
    "image_size": 64,
    "drop_path": 0.0,
}
SWIN = {"embed_channels": 32, "depths": (2, 1, 2, 1), "vanilla": (1, 1, 1, 1), "window": 4, "drop_path": 0.0}
DEEP = {**TINY, "depths": (1, 2, 4, 4), "vanilla": (2, 3)}

SIZES = {  # of the classifiers: parameters, multiply-accumulates at 224; parameters with four normalisations
    lavit_t: (11_758_657, 1_981_479_688, 11_246_681),
    lavit_s: (20_467_933, 4_018_469_272, 19_955_957),
    lavit_b: (33_724_861, 7_477_979_032, 33_212_885),
}


def counted(network, side):
    image = torch.zeros(1, 3, side, side)
    return count_macs(lambda: network(image))


@pytest.mark.parametrize("build", mostly_slow(SIZES, {lavit_t}))
def test_sizes_of_our_stages(build):
    parameters, operations, dense_parameters = SIZES[build]
    with torch.device("meta"):
        network = classifier(build.__name__).eval()
        assert sum(p.numel() for p in network.parameters()) == parameters
        # Besides: Psi 1, N x N for every layer, which stands in front of Theta's bias.
        extra = sum(m.window**4 for m in network.modules() if isinstance(m, LessAttention))
        assert counted(network, 224) == operations + extra
        assert extra < 5e-4 * operations
        assert sum(p.numel() for p in build().parameters()) == dense_parameters
    figures = published_figures()[build.__name__]
    assert (figures.parameters, figures.macs, figures.reading) == (parameters, operations, "reconstruction")


def test_size_without_less_attention():
    with torch.device("meta"):
        network = Classifier(LaViT((3, 4, 6, 3), (6, 3), out_norms="last")).eval()
        assert sum(p.numel() for p in network.parameters()) == 22_021_621
        assert counted(network, 224) == 3_977_097_592


def randomised(network):
    """A network in double precision in which every parameter shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return network.double().eval()


def reference(network, x, vanilla, less_stages=(3, 4), residual_stages=(4,)):
    """Features by the equations, over all tokens at once; stages 3 and 4 have to fit into a window.

    Tokens of a map smaller than the window meet the transforms' rows and columns that belong to their place in it.
    """
    state = network.state_dict()

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def patches(x, name, side):
        """Tokens of the non-overlapping convolution, and the size of their map."""
        rows, columns = (math.ceil(n / side) for n in x.shape[2:])
        padded = x.new_zeros(*x.shape[:2], rows * side, columns * side)
        padded[..., : x.shape[2], : x.shape[3]] = x
        cells = padded.unflatten(3, (columns, side)).unflatten(2, (rows, side)).permute(0, 2, 4, 1, 3, 5)
        return linear(cells.flatten(3).flatten(1, 2), name), (rows, columns)

    features, last = [], None
    for stage, patch in enumerate((4, 2, 2, 2)):
        embed = f"patch_embeds.{stage}"
        state[f"{embed}.flat.weight"] = state[f"{embed}.proj.weight"].flatten(1)
        state[f"{embed}.flat.bias"] = state[f"{embed}.proj.bias"]
        tokens, size = patches(x, f"{embed}.flat", patch)
        positions = F.interpolate(state[f"{embed}.pos_embed"], size, mode="bicubic")
        tokens = norm(tokens, f"{embed}.norm") + positions.flatten(2).transpose(1, 2)
        heads = TINY["heads"][stage]

        def split(x, heads=heads):
            return x.unflatten(2, (heads, -1)).transpose(1, 2)

        windowed = stage + 1 in less_stages
        window = int(network.window * 2.0 ** (2 - stage)) if windowed else None
        place = [y * window + z for y in range(size[0]) for z in range(size[1])] if window else None
        scores = None
        for number in range(len(network.blocks[stage])):
            name = f"blocks.{stage}.{number}"
            normed = norm(tokens, f"{name}.norm1")
            source = normed
            if not windowed:
                side = TINY["reductions"][stage]
                state[f"{name}.flat.weight"] = state[f"{name}.attn.sr.weight"].flatten(1)
                state[f"{name}.flat.bias"] = state[f"{name}.attn.sr.bias"]
                source, _ = patches(normed.transpose(1, 2).unflatten(2, size), f"{name}.flat", side)
                source = norm(source, f"{name}.attn.sr_norm")
            if not windowed or number < vanilla[less_stages.index(stage + 1)]:
                queries, keys = split(linear(normed, f"{name}.attn.q")), split(linear(source, f"{name}.attn.k"))
                scores = queries @ keys.transpose(2, 3) / queries.shape[3] ** 0.5
                if stage + 1 in residual_stages and number == 0:
                    name_of_residual = "attn_down" if stage == 3 else f"attn_down{stage + 1}"
                    scores = scores + residual(state, name_of_residual, *last, window, size)
            else:
                # Psi(Theta(A)^T)^T with the matrices I + deviation of the tokens that there are
                for transform in ("theta", "psi"):
                    deviation = state[f"{name}.attn.{transform}.weight"][place][:, place]
                    matrix = torch.eye(len(place), dtype=x.dtype) + deviation
                    bias = state[f"{name}.attn.{transform}.bias"][place]
                    scores = (scores @ matrix.T + bias).transpose(2, 3)
            values = split(linear(source, f"{name}.attn.v"))
            mixed = (scores.softmax(3) @ values).transpose(1, 2).flatten(2)
            tokens = tokens + linear(mixed, f"{name}.attn.proj")
            hidden = F.gelu(linear(norm(tokens, f"{name}.norm2"), f"{name}.mlp.fc1"))
            tokens = tokens + linear(hidden, f"{name}.mlp.fc2")
        last = (scores, size)
        x = tokens.transpose(1, 2).unflatten(2, size)
        features.append(norm(tokens, f"norm{stage}").transpose(1, 2).unflatten(2, size))
    return features


def residual(state, name, scores, size, window, new_size):
    """Scores of the stage before pooled over 2 x 2 queries and 2 x 2 keys, one cell after the other."""
    kernel = state[f"{name}.pool.0"]  # (heads, 1, 4, 4), cells in the order 2 dy + dx
    queries = scores.unflatten(3, size).unflatten(2, size)
    pooled = scores.new_zeros(*scores.shape[:2], *new_size, *new_size)
    for y in range(size[0]):
        for x in range(size[1]):
            for v in range(size[0]):
                for u in range(size[1]):
                    weight = kernel[:, 0, 2 * (y % 2) + x % 2, 2 * (v % 2) + u % 2]
                    pooled[:, :, y // 2, x // 2, v // 2, u // 2] += weight * queries[:, :, y, x, v, u]
    pooled = pooled.flatten(4).flatten(2, 3) + state[f"{name}.pool_bias"][:, None, None]
    mixed = torch.einsum("oh,bhqk->boqk", state[f"{name}.mix"], pooled) + state[f"{name}.mix_bias"][:, None, None]
    return mixed * state[f"{name}.gamma"]


@pytest.mark.parametrize("size", [(64, 64), (48, 64), (33, 20), (61, 47)])
@pytest.mark.parametrize("options", [TINY, DEEP], ids=["tiny", "deep"])
def test_features_are_those_of_the_global_network(options, size):
    network = randomised(LaViT(**options))
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        features, expected = network(x), reference(network, x, options["vanilla"])
    for feature, value in zip(features, expected, strict=True):
        torch.testing.assert_close(feature, value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(64, 64), (33, 20)])
@pytest.mark.parametrize(
    ("vanilla", "less_stages", "residual_stages"),
    [((1, 1), (3, 4), ()), ((1, 2, 1), (2, 3, 4), (3, 4)), ((1, 1, 1, 2), (1, 2, 3, 4), (2, 4)), ((1,), (3,), ())],
)
def test_less_attention_and_residuals_stand_in_the_chosen_stages(vanilla, less_stages, residual_stages, size):
    stages = {"vanilla": vanilla, "less_stages": less_stages, "residual_stages": residual_stages}
    options = {**TINY, "depths": (2, 2, 3, 2), "reductions": (4, 2), "window": 4}
    network = randomised(LaViT(**options | stages))
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    if 4 not in less_stages:  # reduced attention of one cell a key
        assert network.blocks[3][0].attn.reduction == 1
        assert [f.shape[1] for f in network(x)] == [6, 8, 12, 16]
        return
    with torch.no_grad():
        features, expected = network(x), reference(network, x, vanilla, less_stages, residual_stages)
    for feature, value in zip(features, expected, strict=True):
        torch.testing.assert_close(feature, value, rtol=1e-9, atol=1e-9)
    sum(feature.square().mean() for feature in network.train()(x)).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"less_stages": (4, 3)}, "less_stages=.* is no ascending choice"),
        ({"vanilla": (1, 1, 1)}, "vanilla=.* has 3 numbers for less_stages="),
        ({"residual_stages": (3,)}, "residual_stages=.* choose among \\[4\\]"),
    ],
)
def test_stages_that_do_not_fit_are_named(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        LaViT(**options)


def test_the_network_is_global_at_224():
    with torch.device("meta"):
        network = lavit_s().eval()
        shapes = []
        for part in network.modules():
            if isinstance(part, VanillaAttention | LessAttention):
                part.register_forward_hook(lambda _module, _inputs, output: shapes.append(output[1].shape))
        network(torch.zeros(2, 3, 224, 224))
    assert shapes == [(2, 5, 196, 196)] * 6 + [(2, 8, 49, 49)] * 3


def test_larger_images_are_seen_through_windows():
    network = randomised(LaViT(**TINY))
    for stage in range(4):  # nothing but windows connects positions
        network.patch_embeds[stage].pos_embed.data.zero_()
        if stage < 2:
            for block in network.blocks[stage]:
                nn.init.zeros_(block.attn.proj.weight)
    x = torch.randn(1, 3, 128, 100, dtype=torch.float64)
    with torch.no_grad():
        whole = network(x)
        for top in (0, 64):
            for left in (0, 64):
                for feature, expected, stride in zip(
                    whole, network(x[:, :, top : top + 64, left : left + 64]), network.strides, strict=True
                ):
                    rows, columns = expected.shape[2:]
                    part = feature[:, :, top // stride :, left // stride :][:, :, :rows, :columns]
                    torch.testing.assert_close(part, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"rank": 2, "pooling": "separable"}, {"pooling": "literal"}])
def test_odd_sizes(options):
    network = LaViT(**TINY, **options).eval()
    for height, width in [(203, 331), (32, 33), (33, 1)]:
        with torch.no_grad():
            features = network(torch.randn(1, 3, height, width))
        for feature, channels, stride in zip(features, network.channels, network.strides, strict=True):
            assert feature.shape == (1, channels, math.ceil(height / stride), math.ceil(width / stride))
            assert feature.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"rank": 2, "pooling": "separable"}, {"drop_path": 0.5}])
def test_every_parameter_gets_the_same_gradient_with_checkpointing(options):
    options = {**DEEP, **options, "diagonality": 0.1}
    plain = randomised(LaViT(**options)).train()
    saving = LaViT(**options, checkpointing=True).double()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 75, 66, dtype=torch.float64)
    for network in (plain, saving):
        torch.manual_seed(1)  # for stochastic depth
        (sum(feature.sin().mean() for feature in network(x)) + network.auxiliary_loss()).backward()
    for (name, p), q in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert p.grad is not None and p.grad.isfinite().all() and torch.equal(p.grad, q.grad), name
        assert p.grad.any() or options["drop_path"], name


def less_attention_scores(network, x):
    """Features, and the scores of every layer of less attention."""
    scores = []
    hooks = [
        part.register_forward_hook(lambda _module, _inputs, output: scores.append(output[1]))
        for part in network.modules()
        if isinstance(part, LessAttention)
    ]
    features = network(x)
    for hook in hooks:
        hook.remove()
    return features, scores


def test_auxiliary_loss_is_the_diagonality_of_less_attention():
    network = randomised(LaViT(**TINY, diagonality=0.25)).train()
    _, scores = less_attention_scores(network, torch.randn(2, 3, 64, 128, dtype=torch.float64))
    assert [each.shape for each in scores] == [(4, 2, 16, 16)] * 2 + [(4, 4, 4, 4)]
    expected = 0.25 * sum(diagonality_loss(each) for each in scores)
    loss = network.auxiliary_loss()
    torch.testing.assert_close(loss, expected)
    assert network.auxiliary_loss() is None  # handed out once
    loss.backward()
    assert network.blocks[2][1].attn.theta.weight.grad.any() and network.blocks[2][0].attn.q.weight.grad.any()
    assert network.blocks[3][1].mlp.fc1.weight.grad is None


@pytest.mark.parametrize("build", [lambda **more: LaViT(**TINY, **more), lambda **more: LessSwin(**SWIN, **more)])
def test_auxiliary_loss_has_weights_of_its_parts_and_a_margin(build):
    options = {"diagonality": 0.25, "diagonality_parts": (2.0, 0.5), "diagonality_margin": 0.3}
    network = randomised(build(**options)).train()
    _, scores = less_attention_scores(network, torch.randn(1, 3, 64, 64, dtype=torch.float64))
    losses = [diagonality_loss(each, 0.3, parts=(2.0, 0.5)) for each in scores]
    torch.testing.assert_close(network.auxiliary_loss(), 0.25 * sum(losses))
    with pytest.raises(ValueError, match=r"diagonality_parts=\(-1.0, 1.0\) would reward"):
        build(diagonality_parts=(-1.0, 1.0))


def test_auxiliary_loss_leaves_tokens_out_that_fill_up_windows():
    network = randomised(LaViT(**TINY, diagonality=1.0)).train()
    _, scores = less_attention_scores(network, torch.randn(1, 3, 48, 30, dtype=torch.float64))
    places = [[y * 4 + x for y in range(3) for x in range(2)]] * 2 + [[0, 2]]  # maps of 3 x 2 and 2 x 1 cells
    expected = sum(diagonality_loss(each[..., p, :][..., p]) for each, p in zip(scores, places, strict=True))
    torch.testing.assert_close(network.auxiliary_loss(), expected)


def test_there_is_an_auxiliary_loss_in_training_with_a_weight_alone():
    x = torch.randn(1, 3, 32, 32)
    without, trained, evaluated = LaViT(**TINY), LaViT(**TINY, diagonality=0.1), LaViT(**TINY, diagonality=0.1).eval()
    assert trained.auxiliary_loss() is None
    for network in (without, trained, evaluated):
        network(x)
    for network in (copy.deepcopy(trained), pickle.loads(pickle.dumps(trained))):  # leave the graph behind
        assert network.auxiliary_loss() is None and network.training
    assert trained.auxiliary_loss() > 0
    assert without.auxiliary_loss() is None and evaluated.auxiliary_loss() is None
    trained(x)
    trained.eval()(x)
    assert trained.auxiliary_loss() is None  # that of the last pass, which had none


def test_weights_of_another_window_are_interpolated(tmp_path):
    source = LaViT(**TINY)
    less = source.blocks[2][1].attn
    centres = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
    distance = (centres.unsqueeze(1) - centres).square().sum(2)
    less.theta.weight.data = torch.exp(-distance / 4)
    less.psi.weight.data.fill_(0.125)
    less.theta.bias.data = centres[:, 0].clone()
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    options = {**TINY, "window": 8, "image_size": 128}
    target = LaViT(**options)
    load_weights(target, str(tmp_path / "weights.pth"))
    found = target.blocks[2][1].attn
    assert target.patch_embeds[2].pos_embed.shape == (1, 12, 8, 8)
    # What a constant becomes is kept, at the middle of the window exactly and in the mean nearly.
    torch.testing.assert_close(found.psi.weight, torch.full((64, 64), 0.125 / 4))
    means = [attention.theta.weight.sum(1).mean() for attention in (less, found)]
    torch.testing.assert_close(means[1], means[0], rtol=0.02, atol=0)
    # Rows of outputs and columns of inputs vary over their own cells.
    torch.testing.assert_close(found.theta.weight, found.theta.weight.T)
    kernel = found.theta.weight.detach().view(8, 8, 8, 8)
    assert kernel[4, 4].argmax() == 4 * 8 + 4 and kernel[5, 3].argmax() == 5 * 8 + 3
    bias = found.theta.bias.detach().view(8, 8)
    assert torch.allclose(bias, bias[:, :1].expand(8, 8), atol=1e-6) and (bias[1:, 0] > bias[:-1, 0]).all()
    again = LaViT(**options)
    torch.save(target.state_dict(), tmp_path / "weights.pth")
    load_weights(again, str(tmp_path / "weights.pth"))
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), target.parameters(), strict=True))


def test_low_rank_transforms_are_interpolated_like_their_product():
    network = LaViT(**TINY, rank=3)
    up, down, name = torch.randn(16, 3), torch.randn(16, 3), "blocks.2.1.attn.theta."
    factors = [network.resize(name + kind, value, (36, 3)) for kind, value in (("up", up), ("down", down))]
    product = network.resize(name + "weight", up @ down.T, (36, 36))
    torch.testing.assert_close(factors[0] @ factors[1].T, product)
    for kind, value, shape in [("up", up, (36, 4)), ("weight", up, (36, 36)), ("bias", up[:, 0], (35,))]:
        assert network.resize(name + kind, value, shape) is None
    assert network.resize("blocks.2.1.attn.v.weight", torch.zeros(4, 4), (9, 9)) is None
    assert network.resize("patch_embeds.0.pos_embed", torch.zeros(1, 6, 4, 4), (1, 7, 8, 8)) is None


def test_classification_weights_fill_the_dense_network(tmp_path):
    source = Classifier(LaViT(**TINY, out_norms="last"), 5)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    target = LaViT(**TINY, weights=str(tmp_path / "weights.pth")).eval()
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        for feature, expected in zip(target(x)[:3], source.backbone.eval()(x), strict=False):
            normed = F.layer_norm(expected.permute(0, 2, 3, 1), expected.shape[1:2]).permute(0, 3, 1, 2)
            torch.testing.assert_close(feature, normed)


def test_frozen_stages_stay_frozen_in_training():
    network = LaViT(**TINY, frozen_stages=4).train()
    sum(feature.sin().mean() for feature in network(torch.randn(1, 3, 48, 48))).backward()
    frozen = ("patch_embeds.0", "patch_embeds.1", "patch_embeds.2", "blocks.0", "blocks.1", "blocks.2")
    frozen = tuple(f"{name}." for name in (*frozen, "norm0", "norm1", "norm2"))
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen), name
    assert not network.blocks[2].training or not network.blocks[2][0].training
    assert sum(map(len, network.layer_groups())) == len(list(network.parameters()))


def test_a_fresh_network_passes_scores_on():
    network = LaViT(**TINY).eval()
    scores = []
    for block in network.blocks[2]:
        block.attn.register_forward_hook(lambda _module, _inputs, output: scores.append(output[1]))
    with torch.no_grad():
        network(torch.randn(1, 3, 64, 64))
    assert torch.equal(scores[0], scores[1]) and torch.equal(scores[0], scores[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 7}, "window=7 .*multiple"),
        ({"vanilla": (0, 1)}, "vanilla=0"),
        ({"heads": (1, 2, 5, 4)}, "embed_channels=12 .*heads=5"),
        ({"diagonality": -0.1}, "diagonality=-0.1"),
        ({"drop_path": 1.0}, "drop_path=1.0"),
        ({"out_norms": "none"}, "out_norms='none'"),
        ({"pooling": "none"}, "pooling='none'"),
        ({"image_size": 0}, "image_size=0"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        LaViT(**{**TINY, **options})
