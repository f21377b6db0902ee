"""Stand-alone self-attention against its equation, written out query by query."""

import pytest
import torch
from torch.nn import functional as F

from attention import StandAloneSelfAttention, record_attention
from tests.attention.test_positions import with_positions


def reference(operator, x):
    """Equations 2 and 3 of arXiv 1906.05909, one query, head and cell at a time."""
    batch, _, height, width = x.shape
    k, reach, heads = operator.kernel_size, operator.kernel_size // 2, operator.heads
    depth = operator.out_channels // heads

    entering = with_positions(operator.positions.kind, x)

    def project(conv):
        return torch.einsum("oc,bcij->boij", conv.weight[:, :, 0, 0], entering).unflatten(1, (heads, depth))

    q, v = project(operator.query), project(operator.value)
    key = None if operator.key is None else project(operator.key)
    attended = torch.zeros(batch, operator.out_channels, height, width, dtype=x.dtype)
    for i in range(height):
        for j in range(width):
            for h in range(heads):
                logits, values = [], []
                for a in range(k):
                    for b in range(k):
                        row, column = i + a - reach, j + b - reach
                        inside = 0 <= row < height and 0 <= column < width
                        if not inside and operator.border == "mask":
                            continue
                        logit = torch.zeros(batch, dtype=x.dtype)
                        if key is not None and inside:
                            logit = logit + (q[:, h, :, i, j] * key[:, h, :, row, column]).sum(1)
                        if operator.relative:
                            table = min(h, len(operator.row_embedding) - 1)
                            of_row = operator.row_embedding[table, :, a]
                            of_column = operator.column_embedding[table, :, b]
                            logit = logit + q[:, h, :, i, j] @ torch.cat([of_row, of_column])
                        logits.append(operator.scale * logit)
                        values.append(v[:, h, :, row, column] if inside else 0 * v[:, h, :, i, j])
                exponentials = [torch.exp(logit) for logit in logits]
                total = sum(exponentials)
                for weight, value in zip(exponentials, values, strict=True):
                    channels = slice(h * depth, (h + 1) * depth)
                    attended[:, channels, i, j] = attended[:, channels, i, j] + (weight / total)[:, None] * value
    s = operator.stride
    pooled = [
        [attended[:, :, i : i + s, j : j + s].mean((2, 3)) for j in range(0, width, s)] for i in range(0, height, s)
    ]
    return torch.stack([torch.stack(row, -1) for row in pooled], -2)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (6, 5)])
@pytest.mark.parametrize("border", ["mask", "zero"])
def test_equation_forward_and_backward(border, size, agree):
    torch.manual_seed(0)
    agree(StandAloneSelfAttention(3, 8, 1, 2, 3, border=border), reference, 0.3 * torch.randn(2, 3, *size))


@pytest.mark.parametrize(
    "options",
    [
        {"shared_tables": True},
        {"positions": "none"},
        {"positions": "absolute"},
        {"positions": "absolute", "stride": 2, "border": "zero"},
        {"positions": "coord_conv"},
        {"content": False},
        {"content": False, "border": "zero", "shared_tables": True},
        {"stride": 2},
        {"stride": 3, "kernel_size": 5, "scale": 0.5},
        {"heads": 1, "kernel_size": 1},
    ],
    ids=str,
)
def test_options(options, agree):
    torch.manual_seed(0)
    options = {"stride": 1, "heads": 2, "kernel_size": 3} | options
    agree(StandAloneSelfAttention(4, 4, **options), reference, 0.3 * torch.randn(2, 4, 5, 7))


def unfolded(operator, x):
    """The same with border `zero` by unfolding keys and values."""
    batch, _, height, width = x.shape
    heads, k = operator.heads, operator.kernel_size
    q = operator.query(x).view(batch, heads, -1, height * width)
    key, v = (
        F.unfold(conv(x), k, padding=k // 2).view(batch, heads, -1, k * k, height * width)
        for conv in (operator.key, operator.value)
    )
    rows = operator.row_embedding[:, :, :, None].expand(-1, -1, -1, k)
    columns = operator.column_embedding[:, :, None, :].expand(-1, -1, k, -1)
    embedding = torch.cat([rows, columns], 1).flatten(2)
    weights = torch.softmax(torch.einsum("bhdp,bhdtp->bhtp", q, key + embedding.unsqueeze(-1)), 2)
    return torch.einsum("bhtp,bhdtp->bhdp", weights, v).reshape(batch, -1, height, width)


def test_equals_the_unfolded_form_on_a_larger_map():
    torch.manual_seed(0)
    operator = StandAloneSelfAttention(8, 16, heads=2, border="zero").double()
    x = torch.randn(2, 8, 37, 50, dtype=torch.float64, requires_grad=True)
    out, expected = operator(x), unfolded(operator, x)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    leaves, direction = [x, *operator.parameters()], torch.randn_like(out)
    for ours, theirs in zip(
        torch.autograd.grad(out, leaves, direction), torch.autograd.grad(expected, leaves, direction), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("depths", "options", "expected"),
    [
        ([1, 2, 4, 1], {"positions": "none"}, 10_329_640),
        ([1, 2, 4, 1], {"shared_tables": True}, 10_331_264),
        ([1, 2, 4, 1], {}, 10_342_632),
        ([3, 4, 6, 3], {"positions": "none"}, 18_012_200),
        ([3, 4, 6, 3], {"positions": "absolute"}, 18_012_200),
        ([3, 4, 6, 3], {"positions": "coord_conv"}, 18_012_200 + 9 * 3_776),
        ([3, 4, 6, 3], {}, 18_038_632),
        ([3, 4, 6, 3], {"content": False}, 16_781_160),  # the paper's row "q . r only": 16.7 M
        *(([3, 4, 6, 3], {"kernel_size": k}, 18_012_200 + 3_776 * k) for k in (3, 5, 9, 11)),
    ],
    ids=str,
)
def test_sasa_resnets_have_their_published_sizes(depths, options, expected):
    """Dense projections in place of every 3 x 3 convolution of torchvision's ResNets, 3,776 channels in ResNet-50's."""
    from torchvision.models.resnet import Bottleneck, ResNet

    with torch.device("meta"):
        network = ResNet(Bottleneck, depths)
        total = sum(p.numel() for p in network.parameters())
        assert total == {8: 13_696_552, 16: 25_557_032}[sum(depths)]
        for module in network.modules():
            if isinstance(module, Bottleneck):
                conv = module.conv2
                mixer = StandAloneSelfAttention(conv.in_channels, conv.out_channels, **options)
                total += sum(p.numel() for p in mixer.parameters()) - conv.weight.numel()
    assert total == expected


def test_equal_values_come_back_whatever_the_weights():
    torch.manual_seed(0)
    operator = StandAloneSelfAttention(4, 8, heads=2, kernel_size=5).double()
    x = torch.randn(1, 4, 1, 1, dtype=torch.float64).expand(-1, -1, 6, 7)
    torch.testing.assert_close(operator(x), operator.value(x), rtol=1e-10, atol=1e-12)


def test_shifted_images_give_shifted_maps():
    torch.manual_seed(0)
    operator = StandAloneSelfAttention(8, 8, 1, 2, 3).double()
    x = torch.randn(1, 8, 20, 20, dtype=torch.float64)
    shifted = operator(x.roll((3, 5), (2, 3)))
    inner = (slice(None), slice(None), slice(8, 18), slice(8, 18))
    torch.testing.assert_close(shifted[inner], operator(x).roll((3, 5), (2, 3))[inner], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("border", ["zero", "mask"])
def test_recorded_weights_sum_to_one_and_stay_inside(border):
    torch.manual_seed(0)
    operator = StandAloneSelfAttention(8, 8, 1, 2, 3, border=border)
    with record_attention(operator) as maps:
        operator(torch.randn(2, 8, 5, 6))
    (found,) = maps[""]
    assert found.weights.shape == (2, 2, 5, 6, 3, 3)
    torch.testing.assert_close(found.weights.sum((-1, -2)), torch.ones(2, 2, 5, 6))
    rows_inside = (found.rows >= 0) & (found.rows < 5)
    columns_inside = (found.columns >= 0) & (found.columns < 6)
    inside = rows_inside[:, None, :, None] & columns_inside[None, :, None, :]
    total = (found.weights * inside).sum((-1, -2))
    if border == "mask":
        torch.testing.assert_close(total, torch.ones(2, 2, 5, 6))
    else:
        assert total[..., 0, 0].max() < 1
        torch.testing.assert_close(total[:, :, 1:-1, 1:-1], torch.ones(2, 2, 3, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 8}, "out_channels=8 is not a multiple of 2 heads=16"),
        ({"heads": 3, "positions": "none"}, "out_channels=8 is not a multiple of heads=3"),
        ({"kernel_size": 2}, "kernel_size=2 has no centre"),
        ({"heads": 2, "positions": "learned"}, "positions='learned' .*relative, absolute, coord_conv, none"),
        ({"border": "reflect"}, "border='reflect'"),
        ({"positions": "none", "content": False, "heads": 2}, "positions='none' and content=False leave no logits"),
        ({"positions": "absolute", "content": False, "heads": 2}, "positions='absolute' and content=False"),
    ],
    ids=str,
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        StandAloneSelfAttention(8, 8, **options)
