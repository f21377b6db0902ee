"""Coordinate attention against its equations, written out as loops, and against timm."""

import pytest
import torch
from timm.layers.coord_attn import CoordAttn

from attention import CoordinateAttention, record_attention


def embedded(operator, positions):
    """Equation 6 of arXiv 2103.02907 for a list of pooled vectors (B, C): hidden vectors (B, m)."""
    linear = [vector @ operator.conv1.weight[:, :, 0, 0].T + operator.conv1.bias for vector in positions]
    if operator.training:
        mean = sum(vector.sum(0) for vector in linear) / (len(linear) * len(linear[0]))
        variance = sum(((vector - mean) ** 2).sum(0) for vector in linear) / (len(linear) * len(linear[0]))
    else:
        mean, variance = operator.bn1.running_mean, operator.bn1.running_var
    normal = [(v - mean) / torch.sqrt(variance + 1e-5) * operator.bn1.weight + operator.bn1.bias for v in linear]
    return [v * torch.clamp(v + 3, 0, 6) / 6 for v in normal]


def gate(convolution, vector):
    """Equations 7 and 8: weights (B, C)."""
    return 1 / (1 + torch.exp(-(vector @ convolution.weight[:, :, 0, 0].T + convolution.bias)))


def reference(operator, x):
    rows, columns = x.shape[2:]
    of_rows = [sum(x[:, :, i, j] for j in range(columns)) / columns for i in range(rows)]
    of_columns = [sum(x[:, :, i, j] for i in range(rows)) / rows for j in range(columns)]
    if operator.directions == "height":
        hidden_rows, hidden_columns = embedded(operator, of_rows), None
    elif operator.directions == "width":
        hidden_rows, hidden_columns = None, embedded(operator, of_columns)
    else:
        hidden = embedded(operator, of_rows + of_columns)
        hidden_rows, hidden_columns = hidden[:rows], hidden[rows:]
    out = torch.zeros_like(x)
    for i in range(rows):
        for j in range(columns):
            value = x[:, :, i, j]
            if hidden_rows is not None:
                value = value * gate(operator.conv_h, hidden_rows[i])
            if hidden_columns is not None:
                value = value * gate(operator.conv_w, hidden_columns[j])
            out[:, :, i, j] = value
    return out


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("directions", ["both", "height", "width"])
def test_equation_forward_and_backward(directions, training, size, agree):
    torch.manual_seed(0)
    operator = CoordinateAttention(6, 2, min_channels=2, directions=directions).train(training)
    agree(operator, reference, torch.randn(2, 6, *size))


def test_equals_timm_with_copied_weights(same_function):
    torch.manual_seed(0)
    ours, peer = CoordinateAttention(512, 32), CoordAttn(512, rd_channels=16, bias=True)
    peer.load_state_dict(ours.state_dict())
    x = torch.randn(2, 512, 9, 7)
    same_function(ours, peer, x)
    same_function(ours.eval(), peer.eval(), x)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_transposed_map_swaps_the_directions(training):
    torch.manual_seed(0)
    operator, swapped = CoordinateAttention(16, 2).double(), CoordinateAttention(16, 2).double()
    swapped.load_state_dict(operator.state_dict())
    swapped.conv_h.load_state_dict(operator.conv_w.state_dict())
    swapped.conv_w.load_state_dict(operator.conv_h.state_dict())
    operator.train(training), swapped.train(training)
    x = torch.randn(2, 16, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(swapped(x.transpose(2, 3)).transpose(2, 3), operator(x), rtol=1e-10, atol=1e-12)


def test_a_direction_gates_its_own_axis_only():
    torch.manual_seed(0)
    x = torch.randn(2, 16, 5, 8)
    rows = CoordinateAttention(16, directions="height")(x) / x
    columns = CoordinateAttention(16, directions="width")(x) / x
    torch.testing.assert_close(rows, rows[..., :1].expand_as(x))
    torch.testing.assert_close(columns, columns[..., :1, :].expand_as(x))
    assert not torch.allclose(rows, rows[..., :1, :].expand_as(x))


def test_hidden_width_has_a_lower_bound():
    assert CoordinateAttention(96).conv1.out_channels == 8
    assert CoordinateAttention(384).conv1.out_channels == 12
    assert CoordinateAttention(960).conv1.out_channels == 30
    assert CoordinateAttention(96, min_channels=1).conv1.out_channels == 3


@pytest.mark.parametrize(
    ("channels", "expected"), [(64, 1_688), (256, 6_680), (512, 25_648), (1024, 100_448), (2048, 397_504)]
)
def test_published_module_sizes(channels, expected):
    with torch.device("meta"):
        assert sum(p.numel() for p in CoordinateAttention(channels).parameters()) == expected


@pytest.mark.parametrize(
    ("directions", "names"), [("both", ["row", "column"]), ("height", ["row"]), ("width", ["column"])]
)
def test_recorded_weights_reproduce_the_output(directions, names):
    torch.manual_seed(0)
    operator, x = CoordinateAttention(16, 4, directions=directions), torch.randn(2, 16, 5, 6)
    with record_attention(operator) as maps:
        out = operator(x)
    assert [found.name for found in maps[""]] == names
    shapes = {"row": (2, 16, 5, 1), "column": (2, 16, 1, 6)}
    for found in maps[""]:
        assert found.weights.shape == shapes[found.name]
        assert found.heat_map(5, 6).shape == (2, 5, 6)
        x = x * found.weights
    torch.testing.assert_close(out, x)
