"""ELSA against its equation, written out cell by cell, and against the unfolded form of the authors' CPU path."""

import math

import pytest
import torch
from torch.nn import functional as F

from attention import ELSA, record_attention


def gelu(z):
    return z * 0.5 * (1 + torch.erf(z / math.sqrt(2)))


def reference(operator, x):
    """Hadamard attention and ghost head of arXiv 2112.12786 in the form of the authors' code, one query at a time."""
    batch, _, height, width = x.shape
    k, reach, s, d = operator.kernel_size, operator.kernel_size // 2, operator.stride, operator.dilation
    heads, wide = operator.heads, operator.out_channels // operator.heads
    weight, bias = operator.pre_proj.weight[:, :, 0, 0], operator.pre_proj.bias
    projected = torch.einsum("oc,bcij->boij", weight, x)
    if bias is not None:
        projected = projected + bias[:, None, None]
    q, key, v = projected.split([operator.qk_channels, operator.qk_channels, operator.out_channels], 1)
    product = q * key * operator.scale
    conv, _, last = operator.attn
    group = operator.qk_channels // conv.groups
    mul, add = torch.ones(operator.out_channels, k, k), torch.zeros(operator.out_channels, k, k)
    if operator.mul_power and operator.add_scale:
        mul, add = operator.ghost_head
    elif operator.mul_power:
        mul = operator.ghost_head[0]
    elif operator.add_scale:
        add = operator.ghost_head[0]
    rows = []
    for y in range(0, height, s):
        columns = []
        for z in range(0, width, s):
            cells = []
            for a in range(k):
                for b in range(k):
                    i, j = y + d * (a - reach), z + d * (b - reach)
                    cells.append((a, b, i, j, 0 <= i < height and 0 <= j < width))
            hidden = conv.bias.expand(batch, -1)
            for a, b, i, j, inside in cells:
                if inside:
                    patch = product[:, :, i, j].view(batch, conv.groups, group)
                    kernel = conv.weight[:, :, a, b].view(conv.groups, -1, group)
                    hidden = hidden + torch.einsum("bgc,goc->bgo", patch, kernel).flatten(1)
            scores = (gelu(hidden) @ last.weight[:, :, 0, 0].T + last.bias).view(batch, heads, k * k)
            if operator.border == "mask":
                outside = torch.tensor([not inside for *_, inside in cells])
                scores = scores.masked_fill(outside, -math.inf)
            weights = torch.exp(scores - scores.amax(-1, keepdim=True))
            weights = weights / weights.sum(-1, keepdim=True)
            total = torch.zeros(batch, heads, wide, dtype=x.dtype)
            for t, (a, b, i, j, inside) in enumerate(cells):
                if inside:
                    m = mul[:, a, b].view(heads, wide) ** operator.mul_power
                    filters = m * weights[:, :, t, None] + operator.add_scale * add[:, a, b].view(heads, wide)
                    total = total + filters * v[:, :, i, j].view(batch, heads, wide)
            columns.append(total.flatten(1) @ operator.post_proj.weight.T + operator.post_proj.bias)
        rows.append(torch.stack(columns, -1))
    return torch.stack(rows, -2)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (9, 6)])
@pytest.mark.parametrize("border", ["zero", "mask"])
def test_equation_forward_and_backward(border, size, agree):
    torch.manual_seed(0)
    agree(ELSA(6, 6, 1, 2, 3, 2, border=border), reference, torch.randn(2, 6, *size))


@pytest.mark.parametrize(
    "options",
    [
        {"mul_power": 1},
        {"mul_power": 2, "add_scale": 0.5},
        {"mul_power": 1, "add_scale": 0},
        {"add_scale": 0},
        {"stride": 2},
        {"stride": 2, "mul_power": 1},
        {"stride": 3, "dilation": 2, "border": "mask"},
        {"dilation": 2, "mul_power": 1},
        {"kernel_size": 5, "scale": 0.3, "bias": False},
        {"heads": 1, "group_width": 1},
        {"qk_channels": 8},
    ],
    ids=str,
)
def test_options(options, agree):
    torch.manual_seed(0)
    options = {"stride": 1, "heads": 2, "kernel_size": 3, "group_width": 2} | options
    agree(ELSA(6, 4, **options), reference, torch.randn(2, 6, 5, 7))


def test_equals_the_unfolded_form_on_a_larger_map():
    """F.unfold(v) times filters, the authors' CPU path, at sizes that take several groups of blocks."""
    torch.manual_seed(0)
    operator = ELSA(12, 12, 1, 3, 7, 4).double()
    x = torch.randn(1, 12, 37, 50, dtype=torch.float64, requires_grad=True)
    q, key, v = operator.pre_proj(x).split([8, 8, 12], 1)
    weights = torch.softmax(operator.attn(q * key).view(3, 49, 37 * 50), 1)
    filters = weights.unsqueeze(1) + operator.ghost_head.view(3, 4, 49, 1)
    patches = F.unfold(v.reshape(3, 4, 37, 50), 7, padding=3).view(3, 4, 49, -1)
    mixed = (filters * patches).sum(2).view(1, 12, 37, 50)
    expected = operator.post_proj(mixed.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    out, direction = operator(x), torch.randn(1, 12, 37, 50, dtype=torch.float64)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    leaves = [x, *operator.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(out, leaves, direction), torch.autograd.grad(expected, leaves, direction), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("channels", "heads", "group_width", "expected"),
    # Shapes of the released ELSA-Swin checkpoints: query/key width, k x k convolution, rows of the last convolution.
    [
        (96, 3, 4, (64, (64, 4, 7, 7), 147)),
        (192, 6, 4, (128, (128, 4, 7, 7), 294)),
        (384, 12, 8, (256, (256, 8, 7, 7), 588)),
        (128, 4, 8, (88, (88, 8, 7, 7), 196)),
        (256, 8, 8, (176, (176, 8, 7, 7), 392)),
        (512, 16, 8, (344, (344, 8, 7, 7), 784)),
    ],
)
def test_layout_of_released_weights(channels, heads, group_width, expected):
    width, shape, rows = expected
    with torch.device("meta"):
        state = ELSA(channels, channels, heads=heads, group_width=group_width).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "ghost_head": (1, channels, 7, 7),
        "pre_proj.weight": (2 * width + channels, channels, 1, 1),
        "pre_proj.bias": (2 * width + channels,),
        "attn.0.weight": shape,
        "attn.0.bias": (width,),
        "attn.2.weight": (rows, width, 1, 1),
        "attn.2.bias": (rows,),
        "post_proj.weight": (channels, channels),
        "post_proj.bias": (channels,),
    }


def test_ghost_head_layouts():
    with torch.device("meta"):
        assert ELSA(8, 8, mul_power=1).ghost_head.shape == (2, 8, 7, 7)
        assert ELSA(8, 8, mul_power=1, add_scale=0).ghost_head.shape == (1, 8, 7, 7)
        assert ELSA(8, 8, add_scale=0).ghost_head is None


def test_ghost_kernels_of_both_kinds_load_from_the_layout_of_the_authors():
    torch.manual_seed(0)
    operator, other = ELSA(8, 8, mul_power=1, kernel_size=3), ELSA(8, 8, mul_power=1, kernel_size=3)
    state = operator.state_dict()
    state["ghost_head"] = state["ghost_head"].unsqueeze(1)  # (2, 1, C, k, k)
    other.load_state_dict(state)
    x = torch.randn(1, 8, 5, 4)
    torch.testing.assert_close(other(x), operator(x), rtol=0, atol=0)
    assert state["ghost_head"].dim() == 5  # what is loaded stays as it is


@pytest.mark.parametrize("options", [{}, {"mul_power": 1}, {"mul_power": 1, "add_scale": 0.0}], ids=str)
def test_weights_take_the_format_channels_last(options):
    """Whole networks are brought into it for training; PyTorch cannot do so with parameters of five dimensions."""
    torch.manual_seed(0)
    operator = ELSA(8, 8, kernel_size=3, **options).double()
    x = torch.randn(1, 8, 5, 4, dtype=torch.float64)
    expected = operator(x)
    torch.testing.assert_close(operator.to(memory_format=torch.channels_last)(x), expected)


def test_stage_of_elsa_swin_t_has_its_published_size():
    """Two blocks and the merging of stage 1: 339,494 parameters in the released network."""
    with torch.device("meta"):
        attention = sum(p.numel() for p in ELSA(96, 96, heads=3, group_width=4).parameters())
    norms_and_mlp = 2 * 2 * 96 + 96 * 384 + 384 + 384 * 96 + 96
    merging = 2 * 4 * 96 + 4 * 96 * 2 * 96
    assert 2 * (attention + norms_and_mlp) + merging == 339_494


def test_shifted_images_give_shifted_maps():
    torch.manual_seed(0)
    operator = ELSA(8, 8, 1, 2, 3, 4).double()
    x = torch.randn(1, 8, 20, 20, dtype=torch.float64)
    shifted = operator(x.roll((3, 5), (2, 3)))
    inner = (slice(None), slice(None), slice(8, 18), slice(8, 18))
    torch.testing.assert_close(shifted[inner], operator(x).roll((3, 5), (2, 3))[inner], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("border", ["zero", "mask"])
def test_recorded_weights_reproduce_the_output(border):
    torch.manual_seed(0)
    operator = ELSA(8, 8, 2, 2, 3, 4, add_scale=0, border=border).double()
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    with record_attention(operator) as maps:
        out = operator(x)
    (found,) = maps[""]
    assert found.weights.shape == (2, 2, 3, 3, 3, 3)
    torch.testing.assert_close(found.weights.sum((-1, -2)), torch.ones(2, 2, 3, 3, dtype=torch.float64))
    value = operator.pre_proj(x).split([4, 4, 8], 1)[2].unflatten(1, (2, 4))
    inside = [
        [(i, j, int(found.rows[y, i]), int(found.columns[z, j])) for i in range(3) for j in range(3)]
        for y in range(3)
        for z in range(3)
    ]
    mixed = torch.zeros(2, 2, 4, 9, dtype=torch.float64)
    for query, cells in enumerate(inside):
        for i, j, row, column in cells:
            if 0 <= row < 5 and 0 <= column < 6:
                weight = found.weights[:, :, query // 3, query % 3, i, j]
                mixed[..., query] += weight[..., None] * value[:, :, :, row, column]
            elif border == "mask":
                assert found.weights[:, :, query // 3, query % 3, i, j].abs().max() == 0
    expected = operator.post_proj(mixed.flatten(1, 2).transpose(1, 2)).transpose(1, 2).view(2, 8, 3, 3)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("border", [pytest.param("zero", marks=pytest.mark.slow), "mask"])  # zero: the contract tests
def test_exports_with_a_stride_for_any_height_and_width(border):
    """The table that masks cells must have the size that exporters know of the strided map."""
    operator = ELSA(4, 4, 2, 2, 3, 2, border=border).double().eval()
    height, width = torch.export.Dim("height", min=5), torch.export.Dim("width", min=5)
    x = torch.randn(1, 4, 6, 9, dtype=torch.float64)
    program = torch.export.export(operator, (x,), dynamic_shapes=({2: height, 3: width},)).module()
    for size in ((6, 9), (7, 6)):
        x = torch.randn(1, 4, *size, dtype=torch.float64)
        torch.testing.assert_close(program(x), operator(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "out_channels=8 is not a multiple of heads=5"),
        ({"kernel_size": 4}, "kernel_size=4 has no centre"),
        ({"qk_channels": 6, "group_width": 4}, "qk_channels=6 is not a multiple of group_width=4"),
        ({"mul_power": -1}, "mul_power=-1 is too small"),
        ({"mul_power": 0.5}, "mul_power=0.5 .*integer"),
        ({"dilation": 0}, "dilation=0"),
        ({"border": "reflect"}, "border='reflect'.*zero, mask"),
    ],
    ids=str,
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        ELSA(8, 8, **options)
