"""Channelized axial attention against the contributions alpha and beta of arXiv 2101.07434, written out one by one."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from attention import record_attention
from attention.channelized_axial import ChannelizedAxialAttention


def projection(layers, x):
    """1x1 convolution, batch normalisation, ReLU."""
    convolution, norm, _ = layers
    out = torch.einsum("dc,bchw->bdhw", convolution.weight[:, :, 0, 0], x)
    mean, variance = norm.running_mean, norm.running_var
    if norm.training:
        mean, variance = out.mean((0, 2, 3)), out.var((0, 2, 3), unbiased=False)
    shape = (1, -1, 1, 1)
    out = (out - mean.view(shape)) / torch.sqrt(variance.view(shape) + norm.eps)
    return (out * norm.weight.view(shape) + norm.bias.view(shape)).clamp(min=0)


def mlp(layers, pooled, slope):
    linears = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    for linear in linears[:-1]:
        pooled = pooled @ linear.weight.T
        pooled = torch.where(pooled > 0, pooled, slope * pooled)
    return 1 / (1 + torch.exp(-pooled @ linears[-1].weight.T))


def reference(operator, x, slope=None):
    """Every contribution of every key, gated per query row (column), then summed."""
    batch, channels, height, width = x.shape
    slope = {"deep": 0.2, "plain": 0.0, "none": None}[operator.channelization] if slope is None else slope
    t, s, g = (projection(part, x) for part in (operator.column_key, operator.row_key, operator.value))
    alpha = x.new_zeros(batch, height, width, height, channels)  # (i, j, m)
    beta = x.new_zeros(batch, height, width, width, channels)  # (i, j, n)
    column, row = [[None] * width for _ in range(height)], [[None] * width for _ in range(height)]
    for i in range(height):
        for j in range(width):
            logits = torch.stack([(t[:, :, i, j] * t[:, :, m, j]).sum(1) for m in range(height)], 1)
            weights = F.softmax(logits, 1)
            column[i][j] = torch.stack([weights[:, m, None] * g[:, :, m, j] for m in range(height)], 1)
    alpha = torch.stack([torch.stack(line, 1) for line in column], 1)
    if slope is not None:  # mean over keys m and columns j: one gate per query row i
        alpha = alpha * mlp(operator.column_gate, alpha.mean((2, 3)), slope)[:, :, None, None]
    attended = alpha.sum(3)  # (B, H, W, C)
    for i in range(height):
        for j in range(width):
            logits = torch.stack([(s[:, :, i, j] * s[:, :, i, n]).sum(1) for n in range(width)], 1)
            weights = F.softmax(logits, 1)
            row[i][j] = torch.stack([weights[:, n, None] * attended[:, i, n] for n in range(width)], 1)
    beta = torch.stack([torch.stack(line, 1) for line in row], 1)
    if slope is not None:  # mean over keys n and rows i: one gate per query column j
        beta = beta * mlp(operator.row_gate, beta.mean((1, 3)), slope)[:, None, :, None]
    return beta.sum(3).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("channelization", ["deep", "plain", "none"])
def test_equation_forward_and_backward(channelization, training, size, agree):
    torch.manual_seed(0)
    operator = ChannelizedAxialAttention(6, 3, channelization, reduction=2, epsilon=1e-3)
    agree(operator.train(training), reference, torch.randn(2, 6, *size))


@pytest.mark.parametrize(("hidden_layers", "slope", "groups"), [(0, 0.2, 1), (1, 0.5, 2), (3, 0.0, 4)])
def test_depth_and_slope_of_the_gates_and_groups_of_queries(hidden_layers, slope, groups, agree):
    torch.manual_seed(0)
    operator = ChannelizedAxialAttention(6, 4, "deep", 2, hidden_layers=hidden_layers, slope=slope, groups=groups)
    assert sum(isinstance(layer, torch.nn.Linear) for layer in operator.row_gate) == hidden_layers + 1
    agree(operator.eval(), partial(reference, slope=slope), torch.randn(2, 6, 5, 3))


def test_without_gates_there_is_no_depth():
    with pytest.raises(ValueError, match="has no gates; leave hidden_layers"):
        ChannelizedAxialAttention(8, 4, "none", hidden_layers=2)


def test_inference_without_gradients_computes_the_same():
    torch.manual_seed(0)
    operator = ChannelizedAxialAttention(8, 4).eval()
    x = torch.randn(2, 8, 5, 6)
    kept = x.clone()
    expected = operator(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(operator(x), expected)
    assert torch.equal(x, kept)


def test_size_of_the_published_module():
    operator = ChannelizedAxialAttention(512)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in operator.named_children()}
    assert sizes["column_key"] == sizes["row_key"] == 32_896
    assert sizes["value"] == 263_168
    assert sizes["column_gate"] == sizes["row_gate"] == 196_608
    assert sum(sizes.values()) == 722_176
    assert all(module.eps == 1e-5 for module in operator.modules() if isinstance(module, torch.nn.BatchNorm2d))


def test_zero_values_give_zero():
    operator = ChannelizedAxialAttention(8, 4).eval()
    for parameter in operator.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(operator(torch.randn(2, 8, 5, 3)), torch.zeros(2, 8, 5, 3))


def test_gate_reads_the_mean_over_keys_and_not_their_sum():
    """On a map of one column the row step sees one key, so with zero weights its gate halves the map."""
    torch.manual_seed(0)
    operator = ChannelizedAxialAttention(8, 4).eval().double()
    torch.nn.init.zeros_(operator.row_gate[-2].weight)
    x = torch.randn(2, 8, 6, 1, dtype=torch.float64)
    full = operator(x)
    keys, values = operator.column_key(x)[..., 0].mT, operator.value(x)[..., 0].mT
    attended = F.softmax(keys @ keys.mT, -1) @ values
    gated = attended * operator.column_gate(attended / 6)  # mean over one column, and the 1 / H of the mean over keys
    torch.testing.assert_close(full[..., 0].mT, gated / 2)


def test_maps_reproduce_axial_attention():
    torch.manual_seed(0)
    operator = ChannelizedAxialAttention(8, 4, "none").eval()
    x = torch.randn(2, 8, 5, 3)
    with record_attention(operator) as maps:
        out = operator(x)
    column, row = maps[""]
    assert (column.name, row.name) == ("column", "row")
    assert column.weights.shape == (2, 1, 5, 3, 5, 1) and row.weights.shape == (2, 1, 5, 3, 1, 3)
    for recorded in (column, row):
        torch.testing.assert_close(recorded.weights.sum((4, 5)), torch.ones(2, 1, 5, 3))
        torch.testing.assert_close(recorded.heat_map(5, 3).sum((1, 2)), torch.full((2,), 15.0))
    values = operator.value(x)
    values = torch.einsum("bijm,bcmj->bcij", column.weights[:, 0, ..., 0], values)
    torch.testing.assert_close(torch.einsum("bijn,bcin->bcij", row.weights[:, 0, :, :, 0], values), out)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_unscaled_logits_stay_finite_and_precise_under_autocast(dtype):
    torch.manual_seed(0)
    operator = ChannelizedAxialAttention(16, 8).eval()
    x = 300 * torch.randn(1, 16, 6, 5)
    with torch.autocast("cpu", dtype), record_attention(operator) as maps:
        assert operator(x).isfinite().all()
    assert all(recorded.weights.dtype == torch.float32 for recorded in maps[""])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ChannelizedAxialAttention(8, 0), "key_channels=0 .*at least 1"),
        (lambda: ChannelizedAxialAttention(8, channelization="wide"), "channelization='wide' .*deep, plain, none"),
        (lambda: ChannelizedAxialAttention(8, reduction=9), "reduction=9 .*at most 8"),
        (lambda: ChannelizedAxialAttention(8, epsilon=0), "epsilon=0 .*positive"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
