"""The attention stem against its equations, written out as loops."""

import pytest
import torch

from attention import AttentionStem, record_attention
from backbones import ResNet


def value_at(operator, x, a, b, place):
    """The value (B, C) of a cell (a, b) whose place in its block is `place`."""
    if operator.values == "convolution":
        weight = operator.value_convolution.weight
        ahead, total = (weight.shape[2] - 1) // 2, 0
        for u in range(weight.shape[2]):
            for v in range(weight.shape[3]):
                row, column = a + u - ahead, b + v - ahead
                if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                    total = total + x[:, :, row, column] @ weight[:, :, u, v].T
        return total
    if operator.values == "pointwise":
        return x[:, :, a, b] @ operator.value[0].T
    embedding = operator.row_embedding[place[0]] + operator.column_embedding[place[1]]
    powers = [torch.exp((embedding * nu).sum()) for nu in operator.mixture_embedding]
    matrix = sum(power / sum(powers) * part for power, part in zip(powers, operator.value, strict=True))
    return x[:, :, a, b] @ matrix.T


def reference(operator, x):
    """Section 3 of arXiv 1906.05909 on the stem, one query at a time; blocks and windows end where the map ends."""
    side, heads, (rows, columns) = operator.stride, operator.heads, x.shape[2:]
    width = operator.out_channels // heads
    out = x.new_zeros(x.shape[0], operator.out_channels, rows, columns)
    for i in range(rows):
        for j in range(columns):
            top, left = i // side * side, j // side * side
            places = [(a, b) for a in range(top, min(top + side, rows)) for b in range(left, min(left + side, columns))]
            values = [value_at(operator, x, a, b, (a - top, b - left)) for a, b in places]
            query = x[:, :, i, j] @ operator.query.weight.T
            for head in range(heads):
                own = slice(head * width, (head + 1) * width)
                keys = [x[:, :, a, b] @ operator.key.weight[own].T for a, b in places]
                scores = torch.stack([(query[:, own] * key).sum(1) for key in keys], 1)  # (B, keys)
                weights = torch.exp(scores - scores.max(1, keepdim=True).values)
                weights = weights / weights.sum(1, keepdim=True)
                mixed = sum(weights[:, k : k + 1] * value[:, own] for k, value in enumerate(values))
                out = out.index_put(
                    (
                        torch.arange(len(x))[:, None],
                        torch.arange(own.start, own.stop),
                        torch.tensor(i),
                        torch.tensor(j),
                    ),
                    mixed,
                )
    if operator.training:
        mean, variance = out.mean((0, 2, 3)), out.var((0, 2, 3), correction=0)
    else:
        mean, variance = operator.bn.running_mean, operator.bn.running_var
    mean, variance, weight, bias = (
        value[:, None, None] for value in (mean, variance, operator.bn.weight, operator.bn.bias)
    )
    out = (out - mean) / torch.sqrt(variance + 1e-5) * weight + bias
    pooled = [
        [out[:, :, i : i + side, j : j + side].amax((2, 3)) for j in range(0, columns, side)]
        for i in range(0, rows, side)
    ]
    return torch.stack([torch.stack(row, 2) for row in pooled], 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (8, 4)])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("stride", [4, 2])
def test_equation_forward_and_backward(stride, training, size, agree):
    torch.manual_seed(0)
    operator = AttentionStem(3, 4, stride, heads=2, mixtures=3, embedding=5).train(training)
    agree(operator, reference, torch.randn(2, 3, *size))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (8, 4)])
@pytest.mark.parametrize(
    "options", [{"values": "pointwise"}, {"values": "convolution"}, {"values": "convolution", "value_kernel": 3}]
)
def test_other_values(options, size, agree):
    torch.manual_seed(0)
    agree(AttentionStem(3, 4, 2, heads=2, **options), reference, torch.randn(2, 3, *size))


def test_values_by_one_kernel_cell_are_pointwise():
    torch.manual_seed(0)
    pointwise, convolution = AttentionStem(values="pointwise"), AttentionStem(values="convolution", value_kernel=1)
    state = pointwise.state_dict()
    state["value_convolution.weight"] = state.pop("value")[0][:, :, None, None]
    convolution.load_state_dict(state)
    x = torch.randn(2, 3, 13, 9)
    torch.testing.assert_close(convolution(x), pointwise(x))


def test_rows_of_the_stem_table():
    """Operations of ResNet-50: 7.1, 7.4 and 7.2 GFLOPs are printed for one matrix, a convolution and a mixture."""
    with torch.device("meta"):
        counts = {values: stem_costs(values) for values in ("pointwise", "convolution", "mixture")}
    assert {name: parameters for name, (parameters, _) in counts.items()} == {
        "pointwise": 3 * 192 + 128,
        "convolution": 18 * 192 + 128,
        "mixture": 1344 + 128,
    }
    rise = 2 * (counts["convolution"][1] - counts["pointwise"][1]) / 1e9
    assert 7.35 - 7.15 < rise < 7.45 - 7.05  # what rounds to 7.4 and to 7.1


def stem_costs(values):
    """Parameters of a stem in ResNet, and multiply-accumulates of its values on a map of 224 x 224 cells."""
    stem = ResNet(26, stem="attention", stem_values=values).stem
    matrices = stem.value_convolution.weight.numel() if values == "convolution" else stem.value.numel()
    return sum(p.numel() for p in stem.parameters()), 224 * 224 * matrices


@pytest.mark.parametrize(("mixtures", "embedding", "expected"), [(4, 16, 1344), (1, 16, 720), (8, 8, 2048)])
def test_published_size(mixtures, embedding, expected):
    """1,344 parameters for M = 4 and E = 16, without the normalisation."""
    operator = AttentionStem(mixtures=mixtures, embedding=embedding)
    assert sum(value.numel() for value in operator.parameters()) - 2 * 64 == expected


def test_zero_queries_average_the_values():
    torch.manual_seed(0)
    operator = AttentionStem(mixtures=1).eval()
    torch.nn.init.zeros_(operator.query.weight)
    x = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(operator(x), operator(x.mean((2, 3), keepdim=True).expand(-1, -1, 4, 4)))


def test_recorded_weights_sum_to_one_inside_the_map():
    torch.manual_seed(0)
    operator = AttentionStem().eval()
    with record_attention(operator) as maps:
        operator(torch.randn(2, 3, 6, 9))
    (key,) = maps[""]
    assert key.weights.shape == (2, 4, 6, 9, 4, 4) and key.rows.shape == (6, 4) and key.columns.shape == (9, 4)
    torch.testing.assert_close(key.weights.sum((4, 5)), torch.ones(2, 4, 6, 9))
    assert key.rows[5].tolist() == [4, 5, 6, 7] and key.columns[8].tolist() == [8, 9, 10, 11]
    assert key.weights[:, :, 4:, :, 2:].abs().max() == 0 and key.weights[:, :, :, 8, :, 1:].abs().max() == 0
    torch.testing.assert_close(key.heat_map(6, 9).sum((1, 2)), torch.full((2,), 54.0))


def test_recorded_weights_are_those_of_their_query():
    """One block, one head and one mixture: the weights applied to the values are the unpooled output."""
    torch.manual_seed(0)
    operator = AttentionStem(3, 2, heads=1, mixtures=1).eval()
    x = torch.randn(1, 3, 4, 3)
    with record_attention(operator) as maps:
        out = operator(x)
    weights = maps[""][0].weights[0, 0, :, :, :, :3]
    values = torch.einsum("dc,chw->dhw", operator.value[0], x[0])
    mixed = operator.bn(torch.einsum("ijab,dab->dij", weights, values).unsqueeze(0))
    torch.testing.assert_close(mixed.amax((2, 3), keepdim=True), out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 3}, "heads=3 .*out_channels=64.*divisor"),
        ({"heads": 0}, "heads=0"),
        ({"mixtures": 0}, "mixtures=0"),
        ({"embedding": 0}, "embedding=0"),
        ({"stride": 0}, "stride=0"),
        ({"values": "none"}, "values='none' .*mixture, pointwise, convolution"),
        ({"value_kernel": 0}, "value_kernel=0"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        AttentionStem(**arguments)
    assert "\n" not in str(error.value)
