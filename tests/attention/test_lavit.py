"""Vanilla and less attention of LaViT against arXiv 2406.00427: windows in loops, transforms with both transposes."""

import copy

import pytest
import torch
from torch.nn import functional as F

from attention import record_attention
from attention.functional.layout import merge_windows, split_windows, window_mask
from attention.lavit import LessAttention, VanillaAttention


def windows(x, side):
    """The cells inside each window of a map, in the order of the scores: (b, [(row, column), ...], tokens)."""
    batch, _, height, width = x.shape
    for b in range(batch):
        for top in range(0, height, side):
            for left in range(0, width, side):
                inside = [
                    (i, j, (i - top) * side + j - left)
                    for i in range(top, min(top + side, height))
                    for j in range(left, min(left + side, width))
                ]
                yield b, [cell[:2] for cell in inside], [cell[2] for cell in inside]


def linear(layer, x):
    return x @ layer.weight.T + layer.bias


def matrix(transform):
    """The stored deviation with the identity added."""
    deviation = transform.weight if transform.full else transform.up @ transform.down.T
    return torch.eye(len(deviation), dtype=deviation.dtype) + deviation


def attend(operator, tokens, scores):
    """One window: valid tokens (n, C) and the valid scores (heads, n, n)."""
    values = linear(operator.v, tokens).view(len(tokens), operator.heads, -1)
    read = [F.softmax(scores[head], 1) @ values[:, head] for head in range(operator.heads)]
    return linear(operator.proj, torch.cat(read, 1))


def vanilla(operator, x, residual=None):
    """Every window by itself and without padding; scores of the padding are zero."""
    out, all_scores = torch.zeros_like(x), []
    size = operator.window**2
    for number, (b, cells, tokens) in enumerate(windows(x, operator.window)):
        t = torch.stack([x[b, :, i, j] for i, j in cells])
        queries, keys = (linear(part, t).view(len(t), operator.heads, -1) for part in (operator.q, operator.k))
        scores = torch.einsum("nhd,mhd->hnm", queries, keys) / queries.shape[2] ** 0.5
        if residual is not None:
            scores = scores + residual[number][:, tokens][:, :, tokens]
        y = attend(operator, t, scores)
        out = out + sum(
            F.pad(row.view(-1, 1, 1), (j, x.shape[3] - 1 - j, i, x.shape[2] - 1 - i)).unsqueeze(0)
            * (torch.arange(len(x)) == b).view(-1, 1, 1, 1)
            for (i, j), row in zip(cells, y, strict=True)
        )
        place = F.one_hot(torch.tensor(tokens), size).to(x.dtype)  # (n, N)
        all_scores.append(place.T @ scores @ place)
    return out, torch.stack(all_scores)


def less(operator, x, scores):
    """Theta, transpose, Psi, transpose, as the paper writes it, on the valid sub-matrices of a window."""
    out, all_scores = torch.zeros_like(x), []
    size = operator.window**2
    theta, psi = matrix(operator.theta), matrix(operator.psi)
    for number, (b, cells, tokens) in enumerate(windows(x, operator.window)):
        t = torch.stack([x[b, :, i, j] for i, j in cells])
        given = scores[number][:, tokens][:, :, tokens]  # (heads, n, n)
        mixed = (given @ theta[tokens][:, tokens].T + operator.theta.bias[tokens]).transpose(1, 2)
        mixed = (mixed @ psi[tokens][:, tokens].T + operator.psi.bias[tokens]).transpose(1, 2)
        y = attend(operator, t, mixed)
        out = out + sum(
            F.pad(row.view(-1, 1, 1), (j, x.shape[3] - 1 - j, i, x.shape[2] - 1 - i)).unsqueeze(0)
            * (torch.arange(len(x)) == b).view(-1, 1, 1, 1)
            for (i, j), row in zip(cells, y, strict=True)
        )
        place = F.one_hot(torch.tensor(tokens), size).to(x.dtype)
        all_scores.append(place.T @ mixed @ place)
    return out, torch.stack(all_scores)


class Both(torch.nn.Module):
    """Output and scores in one tensor, for the comparison of all gradients."""

    def __init__(self, operator, *given):
        super().__init__()
        self.operator = operator
        self.given = given

    def forward(self, x):
        return join(self.operator(x, *self.given))


def join(pair):
    return torch.cat([part.flatten() for part in pair])


SIZES = [(1, 1), (1, 7), (5, 4), (4, 4)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("with_residual", [False, True])
def test_vanilla_equation_forward_and_backward(with_residual, size, agree):
    torch.manual_seed(0)
    x = torch.randn(2, 6, *size)
    count = len(split_windows(x, 2))
    given = [torch.randn(count, 3, 4, 4, dtype=torch.float64)] if with_residual else []
    agree(Both(VanillaAttention(6, 3, 2), *given), lambda both, x: join(vanilla(both.operator, x, *given)), x)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rank", [None, 2])
def test_less_equation_forward_and_backward(rank, size, agree):
    torch.manual_seed(0)
    x = torch.randn(2, 6, *size)
    scores = torch.randn(len(split_windows(x, 2)), 3, 4, 4, dtype=torch.float64)
    agree(Both(LessAttention(6, 3, 2, rank), scores), lambda both, x: join(less(both.operator, x, scores)), x)


def test_closed_form_of_the_transforms():
    torch.manual_seed(0)
    operator = LessAttention(4, 2, 3).double()
    for parameter in operator.parameters():
        torch.nn.init.normal_(parameter)
    scores = torch.randn(5, 2, 9, 9, dtype=torch.float64)
    theta, psi = matrix(operator.theta), matrix(operator.psi)
    ones = torch.ones(9, 1, dtype=torch.float64)
    expected = psi @ scores @ theta.T + psi @ ones @ operator.theta.bias[None] + operator.psi.bias[:, None] @ ones.T
    torch.testing.assert_close(operator(torch.zeros(5, 4, 3, 3).double(), scores)[1], expected, rtol=1e-12, atol=1e-12)
    layers = [torch.nn.Linear(9, 9).double() for _ in range(2)]
    for layer, weight, own in zip(layers, (theta, psi), (operator.theta, operator.psi), strict=True):
        layer.weight.data, layer.bias.data = weight.detach(), own.bias.detach()
    literal = layers[1](layers[0](scores).transpose(2, 3)).transpose(2, 3)
    torch.testing.assert_close(literal, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fresh_less_attention_attends_exactly_as_the_layer_before(dtype, rank):
    torch.manual_seed(0)
    first, second = VanillaAttention(8, 2, 3), LessAttention(8, 2, 3, rank)
    second.v.load_state_dict(first.v.state_dict())
    second.proj.load_state_dict(first.proj.state_dict())
    first, second = first.to(dtype), second.to(dtype)
    x = torch.randn(2, 8, 7, 5, dtype=dtype)
    y, scores = first(x)
    z, same = second(x, scores)
    assert torch.equal(scores, same) and torch.equal(y, z)
    torch.autograd.grad(z.square().sum(), second.theta.bias)
    learns = second.theta.down if rank else second.theta.weight
    assert torch.autograd.grad(second(x, scores)[0].square().sum(), learns)[0].abs().sum() > 0


def test_bias_of_psi_acts_only_through_the_scores_handed_on():
    torch.manual_seed(0)
    first, second = (LessAttention(8, 2, 2).double() for _ in range(2))
    torch.nn.init.normal_(second.theta.weight)
    x, scores = torch.randn(1, 8, 4, 4).double(), torch.randn(4, 2, 4, 4).double()
    y, handed = first(x, scores)
    (gradient,) = torch.autograd.grad(y.square().sum(), first.psi.bias, retain_graph=True)
    assert gradient.abs().max() < 1e-12
    (gradient,) = torch.autograd.grad(second(x, handed)[0].square().sum(), first.psi.bias)
    assert gradient.abs().max() > 1e-9


def test_one_window_is_global_attention():
    torch.manual_seed(0)
    operator = VanillaAttention(8, 2, 4).double()
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    tokens = x.flatten(2).mT
    queries, keys, values = (
        part(tokens).unflatten(2, (2, 4)).transpose(1, 2) for part in (operator.q, operator.k, operator.v)
    )
    expected = operator.proj(F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(operator(x)[0].flatten(2).mT, expected)


def test_a_window_ignores_the_others_and_what_it_was_padded_with(monkeypatch):
    torch.manual_seed(0)
    first, second = VanillaAttention(4, 2, 4).double(), LessAttention(4, 2, 4).double()
    for parameter in (*first.parameters(), *second.parameters()):
        torch.nn.init.normal_(parameter)

    def chain(x):
        y, scores = first(x)
        z, scores = second(y, scores)
        return second(z, scores)

    x = torch.randn(1, 4, 6, 7, dtype=torch.float64)
    expected, expected_scores = chain(x)
    pad = F.pad  # the map is padded with nines now, and cropped as before
    with monkeypatch.context() as patch:
        patch.setattr(F, "pad", lambda x, padding, value=None: pad(x, padding, value=9.0 if value is None else value))
        out, scores = chain(x)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(scores, expected_scores, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(chain(x[:, :, :4, :4])[0], expected[:, :, :4, :4])


def test_windows_come_back_in_place():
    x = torch.randn(2, 3, 7, 5)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        given = x.contiguous(memory_format=memory_format)
        tokens = split_windows(given, 3)
        assert tokens.shape == (2 * 3 * 2, 9, 3)
        back = merge_windows(tokens, given, 3)
        assert torch.equal(back, x) and back.is_contiguous(memory_format=memory_format)
    mask = window_mask(x, 3)
    assert mask.shape == (12, 9) and mask.sum() == 2 * 35
    assert mask[5].tolist() == [True, True, False] + [False] * 6  # last window: row 6, columns 3 and 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_stay_precise_under_autocast(dtype):
    torch.manual_seed(0)
    first, second = VanillaAttention(8, 2, 3), LessAttention(8, 2, 3)
    x = (1000 * torch.randn(1, 8, 4, 5)).requires_grad_()
    with torch.autocast("cpu", dtype):
        y, scores = first(x)
        z, transformed = second(y, scores)
    assert scores.dtype == transformed.dtype == torch.float32
    assert torch.equal(scores, transformed)
    assert z.isfinite().all()
    z.float().sum().backward()
    assert x.grad.isfinite().all()
    first, second, x = first.bfloat16(), second.bfloat16(), x.detach().bfloat16()
    y, scores = first(x)
    assert y.dtype == second(y, scores)[0].dtype == torch.bfloat16 and scores.dtype == torch.float32


def test_maps_of_both_reproduce_the_output():
    torch.manual_seed(0)
    first, second = VanillaAttention(8, 2, 3), LessAttention(8, 2, 3)
    torch.nn.init.normal_(second.theta.weight)
    x = torch.randn(2, 8, 4, 5)
    with record_attention(first) as maps:
        y, scores = first(x)
    with record_attention(second) as maps_of_second:
        z, _ = second(y, scores)
    for operator, given, out, recorded in ((first, x, y, maps[""][0]), (second, y, z, maps_of_second[""][0])):
        assert recorded.weights.shape == (2, 2, 4, 5, 3, 3)
        torch.testing.assert_close(recorded.weights.sum((4, 5)), torch.ones(2, 2, 4, 5))
        torch.testing.assert_close(recorded.heat_map(4, 5).sum((1, 2)), torch.full((2,), 20.0))
        values = operator.v(given.permute(0, 2, 3, 1)).unflatten(3, (2, 4))
        rows, columns = recorded.rows.clamp(max=3), recorded.columns.clamp(max=4)  # outside has no weight
        neighbours = values[:, rows][:, :, :, columns]  # (B, H', h, W', w, heads, d)
        read = torch.einsum("bnijac,biajcnd->bijnd", recorded.weights, neighbours).flatten(3)
        torch.testing.assert_close(operator.proj(read).permute(0, 3, 1, 2), out)


@pytest.mark.parametrize("rank", [None, 4])
def test_parameters_match_the_formula(rank):
    def count(operator):
        return sum(p.numel() for p in operator.parameters())

    assert count(VanillaAttention(24, 3, 7)) == 4 * 24**2 + 4 * 24
    of_transforms = 2 * 49 + (4 * 4 * 49 if rank else 2 * 49**2)
    assert count(LessAttention(24, 3, 7, rank)) == 2 * 24**2 + 2 * 24 + of_transforms
    # 2 N^2 at stage 1's 3136 tokens: 19.7 million, the reason for windows (without biases).
    assert 2 * 3136**2 == 19_668_992


@pytest.mark.parametrize("rank", [pytest.param(None, marks=pytest.mark.slow), 2])
def test_compiles_and_exports_with_any_size(rank):
    class Chain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = VanillaAttention(4, 2, 3), LessAttention(4, 2, 3, rank)

        def forward(self, x):
            y, scores = self.first(x)
            return self.second(y, scores)[0]

    torch.manual_seed(0)
    chain = Chain().eval()
    torch.nn.init.normal_(chain.second.theta.bias)
    x, other = torch.randn(2, 4, 7, 8), torch.randn(2, 4, 10, 5)
    size = {2: torch.export.Dim("height", min=4, max=64), 3: torch.export.Dim("width", min=4, max=64)}
    exported = torch.export.export(chain, (x,), dynamic_shapes={"x": size}).module()
    compiled = torch.compile(copy.deepcopy(chain), backend="eager", fullgraph=True)
    for given in (x, other):
        torch.testing.assert_close(exported(given), chain(given))
        torch.testing.assert_close(compiled(given), chain(given))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VanillaAttention(8, 3, 7), "channels=8 .*heads=3"),
        (lambda: VanillaAttention(8, 0, 7), "heads=0 .*at least 1"),
        (lambda: LessAttention(8, 2, 0), "window=0 .*at least 1"),
        (lambda: LessAttention(8, 2, 2, 0), "rank=0 .*at least 1"),
        (
            lambda: LessAttention(8, 2, 2)(torch.zeros(1, 8, 2, 2), torch.zeros(1, 4, 4, 4)),
            "heads=2 .*windows, 2, 4, 4",
        ),
        (lambda: LessAttention(8, 2, 2)(torch.zeros(1, 8, 2, 2), torch.zeros(1, 2, 9, 9)), "window=2"),
        (lambda: VanillaAttention(8, 2, 2)(torch.zeros(1, 8, 2, 2), torch.zeros(1, 2, 9, 9)), "window=2"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
