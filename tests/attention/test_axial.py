"""Position-sensitive axial attention against the equation of arXiv 2003.07853, one position at a time."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from attention import Mixer, record_attention
from attention.axial import AxialAttention


def normalised(norm, x):
    """Batch normalisation over all axes but the second."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    mean, variance = norm.running_mean, norm.running_var
    if norm.training:
        mean, variance = x.mean(axes), x.var(axes, unbiased=False)
    shape = [1, -1] + [1] * (x.dim() - 2)
    scaled = (x - mean.view(shape)) / torch.sqrt(variance.view(shape) + norm.eps)
    return scaled * norm.weight.view(shape) + norm.bias.view(shape)


def along_columns(line, x):
    """One axis: columns of (B, c, H, W), every head, query and key in a loop."""
    batch, _, height, width = x.shape
    heads, d, span = line.heads, line.width, line.span
    projected = normalised(line.project_norm, torch.einsum("dc,bchw->bdhw", line.project.weight[:, :, 0, 0], x))
    projected = projected.view(batch, heads, 2 * d, height, width)
    queries, keys, values = projected.split([d // 2, d // 2, d], 2)

    def row(table, o, p):
        return table[max(-span + 1, min(span - 1, p - o)) + span - 1]

    def logits(of_pair):
        """(B, heads, W, H queries, H keys)"""
        return torch.stack([torch.stack([of_pair(o, p) for p in range(height)], -1) for o in range(height)], -2)

    def dot(a, b):
        return (a * b).sum(2)

    scores = normalised(line.content_norm, logits(lambda o, p: dot(queries[..., o, :], keys[..., p, :])))
    if line.query_table is not None:
        terms = logits(lambda o, p: dot(queries[..., o, :], row(line.query_table, o, p)[:, None]))
        scores = scores + normalised(line.query_norm, terms)
    if line.key_table is not None:
        terms = logits(lambda o, p: dot(keys[..., p, :], row(line.key_table, o, p)[:, None]))
        scores = scores + normalised(line.key_norm, terms)
    weights = torch.exp(scores) / torch.exp(scores).sum(-1, keepdim=True)
    content, position = [], []
    for o in range(height):
        given = weights[..., o, :].unsqueeze(2)  # (B, heads, 1, W, H)
        content.append(sum(given[..., p] * values[..., p, :] for p in range(height)))
        if line.value_table is not None:
            position.append(sum(given[..., p] * row(line.value_table, o, p)[:, None] for p in range(height)))
    out = normalised(line.value_norm, torch.stack(content, 3).flatten(1, 2))
    if line.value_table is not None:
        out = out + normalised(line.position_norm, torch.stack(position, 3).flatten(1, 2))
    return out


def reference(operator, x):
    mixed = along_columns(operator.column, x)
    mixed = along_columns(operator.row, mixed.transpose(2, 3)).transpose(2, 3)
    stride, (height, width) = operator.stride, x.shape[2:]
    blocks = [
        [mixed[:, :, i : i + stride, j : j + stride].mean((2, 3)) for j in range(0, width, stride)]
        for i in range(0, height, stride)
    ]
    return torch.stack([torch.stack(line, -1) for line in blocks], -2)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("position", ["sensitive", "query", "none"])
def test_equation_forward_and_backward(position, training, size, agree):
    torch.manual_seed(0)
    operator = AxialAttention(3, 8, heads=2, span=3, position=position)  # longer lines than the span: offsets clip
    agree(operator.train(training), reference, torch.randn(2, 3, *size))


@pytest.mark.parametrize(("stride", "size"), [(2, (5, 4)), (3, (4, 7)), (4, (1, 3))])
def test_stride_averages_what_is_inside(stride, size, agree):
    torch.manual_seed(0)
    operator = AxialAttention(3, 4, stride, heads=1, span=8).eval()
    assert isinstance(operator, Mixer)
    agree(operator, reference, torch.randn(2, 3, *size))


@pytest.mark.parametrize("size", [(1, 3), (3, 1), (1, 7)])
def test_one_head_on_a_single_row_or_column_in_eval_mode(size, agree):
    torch.manual_seed(0)  # views alone reach the normalisation: see the comment at AxialAttention's
    agree(AxialAttention(3, 4, heads=1, span=8).eval(), reference, torch.randn(2, 3, *size))


@pytest.mark.parametrize("position", ["sensitive", "query", "none"])
def test_parameters_match_the_formula(position):
    operator = AxialAttention(24, 32, heads=4, span=7, position=position)
    width, expected = 8, 0
    for channels in (24, 32):
        expected += {
            "sensitive": 2 * channels * 32 + 8 * 32 + 6 * 4 + 13 * 2 * width,
            "query": 2 * channels * 32 + 6 * 32 + 4 * 4 + 13 * width // 2,
            "none": 2 * channels * 32 + 6 * 32 + 2 * 4,
        }[position]
    assert sum(p.numel() for p in operator.parameters()) == expected


@pytest.mark.parametrize("position", ["sensitive", "query", "none"])
def test_cost_is_that_of_the_docstring(position):
    operator, (height, width) = AxialAttention(6, 8, heads=2, position=position).eval(), (5, 3)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        operator(torch.randn(1, 6, height, width))
    of_lines = {"sensitive": 3.5, "query": 2, "none": 1.5}[position] * 8 * (height + width)
    assert counter.get_total_flops() == 2 * height * width * (2 * 6 * 8 + 2 * 8**2 + of_lines)


def test_no_images_give_an_empty_map():
    """As convolutions do; heads of detectors see batches without a single region."""
    x = torch.zeros(0, 6, 5, 4, requires_grad=True)
    out = AxialAttention(6, 8, 2, heads=2).eval()(x)
    out.sum().backward()
    assert out.shape == (0, 8, 3, 2) and x.grad.shape == x.shape


def test_without_positions_permuted_rows_and_columns_commute():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    rows, columns = torch.randperm(5), torch.randperm(4)
    for position, equal in (("none", True), ("query", False), ("sensitive", False)):
        operator = AxialAttention(6, 8, heads=2, span=5, position=position).double().eval()
        permuted = operator(x[:, :, rows][..., columns])
        assert torch.allclose(permuted, operator(x)[:, :, rows][..., columns]) is equal


def test_table_rows_beyond_the_line_do_nothing():
    torch.manual_seed(0)
    operator = AxialAttention(3, 4, heads=1, span=9).double().eval()
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    gradient = torch.autograd.grad(operator(x).square().sum(), operator.column.value_table)[0]
    used = gradient.abs().sum(1) > 0
    assert used.tolist() == [abs(offset) <= 3 for offset in range(-8, 9)]


def test_maps_reproduce_attention_without_positions():
    torch.manual_seed(0)
    operator = AxialAttention(6, 8, heads=2, position="none").eval()
    for norm in (operator.column.value_norm, operator.row.value_norm):
        norm.eps = 0.0  # variance one, mean zero: the identity
    x = torch.randn(2, 6, 5, 3)
    with record_attention(operator) as maps:
        out = operator(x)
    column, row = maps[""]
    assert column.weights.shape == (2, 2, 5, 3, 5, 1) and row.weights.shape == (2, 2, 5, 3, 1, 3)
    for recorded in (column, row):
        torch.testing.assert_close(recorded.weights.sum((4, 5)), torch.ones(2, 2, 5, 3))
        torch.testing.assert_close(recorded.heat_map(5, 3).sum((1, 2)), torch.full((2,), 15.0))

    def values(line, x):
        return line.project_norm(line.project(x).flatten(2)).unflatten(2, x.shape[2:]).unflatten(1, (2, 8))[:, :, 4:]

    mixed = torch.einsum("bnijm,bncmj->bncij", column.weights[..., 0], values(operator.column, x)).flatten(1, 2)
    mixed = torch.einsum("bnijm,bncim->bncij", row.weights[..., 0, :], values(operator.row, mixed)).flatten(1, 2)
    torch.testing.assert_close(mixed, out)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_finite_and_softmax_precise(dtype):
    torch.manual_seed(0)
    operator = AxialAttention(6, 8, 2, heads=2).eval()
    for line in (operator.column, operator.row):  # logits of position beyond the range of float16
        torch.nn.init.constant_(line.query_table, 3e3)
        torch.nn.init.constant_(line.key_table, 3e3)
    x = (300 * torch.randn(1, 6, 5, 4)).requires_grad_()
    with torch.autocast("cpu", dtype), record_attention(operator) as maps:
        out = operator(x)
    out.float().sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()
    assert all(recorded.weights.dtype == torch.float32 for recorded in maps[""])
    assert operator.bfloat16()(x.detach().bfloat16()).dtype == torch.bfloat16


def test_heads_share_tables_and_softmax_has_no_scale():
    """One head of a constant query and key: the logits are the table's, as they are."""
    operator = AxialAttention(1, 2, heads=1, span=3, position="query").double().eval()
    with torch.no_grad():
        operator.column.project.weight.zero_()
        operator.column.project_norm.bias.fill_(1)
        operator.column.project_norm.eps = operator.column.query_norm.eps = 0.0
    with record_attention(operator) as maps:
        operator(torch.zeros(1, 1, 3, 1, dtype=torch.float64))
    table = operator.column.query_table[:, 0]
    expected = torch.stack([F.softmax(table[2 - o : 5 - o], 0) for o in range(3)])
    torch.testing.assert_close(maps[""][0].weights[0, 0, :, 0, :, 0], expected.detach())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AxialAttention(8, 24, heads=8), "out_channels=24 .*2 \\* heads=16"),
        (lambda: AxialAttention(8, 16, heads=0), "heads=0 .*at least 1"),
        (lambda: AxialAttention(8, 16, span=0), "span=0 .*at least 1"),
        (lambda: AxialAttention(8, 16, position="absolute"), "position='absolute' .*sensitive, query, none"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
