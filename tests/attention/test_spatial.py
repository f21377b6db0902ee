"""Spatial attention against its equation, written out as loops."""

import pytest
import torch

from attention import SpatialAttention, record_attention


def reference(operator, x):
    """Equation 5 of arXiv 1807.06521 with [max, mean] planes and a batch normalisation, one number at a time."""
    batch, channels, rows, columns = x.shape
    size = operator.conv.kernel_size[0]
    values = {}
    for b in range(batch):
        for i in range(rows):
            for j in range(columns):
                total = x.sum() * 0
                for di in range(size):
                    for dj in range(size):
                        row, column = i + di - size // 2, j + dj - size // 2
                        if not (0 <= row < rows and 0 <= column < columns):
                            continue
                        cell = [x[b, c, row, column] for c in range(channels)]
                        planes = []
                        if operator.pooling == "conv":
                            products = [
                                w * value for w, value in zip(operator.reduce.weight.flatten(), cell, strict=True)
                            ]
                            planes.append(
                                sum(products) + (0 if operator.reduce.bias is None else operator.reduce.bias[0])
                            )
                        if operator.pooling in ("avg_max", "max"):
                            planes.append(max(cell, key=torch.Tensor.item))
                        if operator.pooling in ("avg_max", "avg"):
                            planes.append(sum(cell) / channels)
                        for plane, value in enumerate(planes):
                            total = total + operator.conv.weight[0, plane, di, dj] * value
                values[b, i, j] = total if operator.conv.bias is None else total + operator.conv.bias[0]
    if operator.bn is None:
        mean, variance, scale, shift = 0, x.new_tensor(1 - 1e-5), 1, 0
    elif operator.training:
        mean = sum(values.values()) / len(values)
        variance = sum((value - mean) ** 2 for value in values.values()) / len(values)
    else:
        mean, variance = operator.bn.running_mean[0], operator.bn.running_var[0]
    if operator.bn is not None:
        scale, shift = operator.bn.weight[0], operator.bn.bias[0]
    out = torch.zeros_like(x)
    for (b, i, j), value in values.items():
        score = (value - mean) / torch.sqrt(variance + 1e-5) * scale + shift
        out[b, :, i, j] = x[b, :, i, j] / (1 + torch.exp(-score))
    return out


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "options",
    [
        (7, "avg_max"),
        (3, "avg_max"),
        (3, "avg"),
        (3, "max"),
        (3, "conv"),
        (3, "conv", False),
        (3, "conv", True, True),
        (7, "conv", False, True),
        (3, "avg_max", False, True),
    ],
    ids=str,
)
def test_equation_forward_and_backward(options, training, size, agree):
    torch.manual_seed(0)
    agree(SpatialAttention(3, *options).train(training), reference, torch.randn(2, 3, *size))


def test_every_position_starts_with_one_half():
    operator = SpatialAttention(8)
    assert operator.bn.momentum == 0.01
    assert operator.bn.weight.item() == 0
    x = torch.randn(2, 8, 5, 6)
    assert torch.equal(operator.train()(x), x / 2)
    assert torch.equal(operator.eval()(x), x / 2)


def test_first_plane_is_the_maximum():
    operator = SpatialAttention(4, 1).eval()
    torch.nn.init.ones_(operator.bn.weight)
    with torch.no_grad():
        operator.conv.weight.copy_(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    x = torch.randn(1, 4, 3, 3)
    expected = torch.sigmoid(x.amax(1, keepdim=True) / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(operator.gate(x), expected)


def test_parameters_do_not_depend_on_the_channels():
    counts = {sum(p.numel() for p in SpatialAttention(channels).parameters()) for channels in (1, 64, 2048)}
    assert counts == {100}


def test_parameters_of_a_learned_plane():
    def count(*options):
        with torch.device("meta"):
            return sum(p.numel() for p in SpatialAttention(256, 7, *options).parameters())

    assert [count("conv"), count("conv", False), count("conv", False, True), count("conv", True, True)] == [
        256 + 49 + 2,
        256 + 49,
        256 + 1 + 49 + 1,
        256 + 1 + 49 + 1 + 2,
    ]
    assert [count("avg_max", False), count("avg_max", False, True)] == [98, 99]


def test_recorded_weights_reproduce_the_output():
    torch.manual_seed(0)
    operator, x = SpatialAttention(8), torch.randn(2, 8, 5, 6)
    torch.nn.init.ones_(operator.bn.weight)
    with record_attention(operator) as maps:
        out = operator(x)
    (found,) = maps[""]
    assert found.name == "position" and found.weights.shape == (2, 1, 5, 6)
    torch.testing.assert_close(out, x * found.weights)
    torch.testing.assert_close(found.heat_map(5, 6), found.weights[:, 0])
