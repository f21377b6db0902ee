"""Attention augmented convolution against its equation, as loops, and in the sizes of published networks."""

import pytest
import torch
import torchvision
from torch.nn import functional as F

from attention.attention_augmented import AttentionAugmentedConv2d
from attention.maps import record_attention
from tests.attention.test_bottleneck import global_attention
from tests.attention.test_positions import with_positions


def average_pool(x, stride):
    """3 x 3 averages at every stride-th cell; what lies outside counts as zero."""
    height, width = x.shape[2:]
    lines = []
    for i in range(0, height, stride):
        line = [x[:, :, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].sum((2, 3)) / 9 for j in range(0, width, stride)]
        lines.append(torch.stack(line, 2))
    return torch.stack(lines, 2)


def doubled(x):
    """Bilinear interpolation to twice the size, between the centres of cells."""
    for axis in (2, 3):
        size = x.shape[axis]
        cells = []
        for place in range(2 * size):
            at = min(max((place + 0.5) / 2 - 0.5, 0), size - 1)
            low = int(at)
            high = min(low + 1, size - 1)
            cells.append(x.select(axis, low) * (1 - (at - low)) + x.select(axis, high) * (at - low))
        x = torch.stack(cells, axis)
    return x


def reference(operator, x):
    heads, dk, dv = operator.heads, operator.key_channels, operator.value_channels
    pooled = x if operator.stride == 1 else average_pool(x, operator.stride)
    size = pooled.shape[2:]
    if operator.pooled:
        pooled = average_pool(pooled, 2)
    pooled = with_positions(operator.positions.kind, pooled)
    projected = torch.einsum("oc,bcij->boij", operator.kqv.weight[:, :, 0, 0], pooled)
    k, q, v = (part.unflatten(1, (heads, -1)) for part in projected.split([dk, dk, dv], 1))
    q = q / (dk / heads) ** 0.5
    zeros = x.new_zeros(1, dk // heads)
    tables = (zeros, zeros) if operator.relative is None else tuple(operator.relative.parameters())
    mixed = global_attention(operator, q, k, v, tables, 1.0, 1.0)
    attended = torch.einsum("oc,bcij->boij", operator.output.weight[:, :, 0, 0], mixed)
    if operator.pooled:
        attended = doubled(attended)[:, :, : size[0], : size[1]]
    if operator.conv is None:
        return attended
    reach = operator.conv.kernel_size[0] // 2
    padded = F.pad(x, (reach,) * 4)
    windows = [
        padded[:, :, i : i + 2 * reach + 1, j : j + 2 * reach + 1]
        for i in range(0, x.shape[2], operator.stride)
        for j in range(0, x.shape[3], operator.stride)
    ]
    convolved = torch.stack([torch.einsum("bcij,ocij->bo", window, operator.conv.weight) for window in windows], 2)
    return torch.cat([convolved.unflatten(2, size), attended], 1)


def make(stride=1, channels=3, **options):
    return AttentionAugmentedConv2d(
        channels, 6, stride, **dict(heads=2, kappa=0.5, upsilon=0.4, min_key_channels=1, grid=(3, 4)) | options
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (3, 4)])
@pytest.mark.parametrize("stride", [1, 2])
def test_equation_forward_and_backward(stride, size, agree):
    """On maps of the grid's size, smaller and larger ones."""
    agree(make(stride), reference, torch.randn(2, 3, *size))


@pytest.mark.parametrize("size", [(1, 1), (4, 6), (7, 5)])
@pytest.mark.parametrize("stride", [1, 2])
def test_pooled_attention(stride, size, agree):
    agree(make(stride, pooled=True, grid=(2, 2)), reference, torch.randn(1, 3, *size))


@pytest.mark.parametrize(
    "options",
    [
        dict(positions="none"),
        dict(positions="sinusoidal"),
        dict(positions="coord_conv"),
        dict(positions="coord_conv", pooled=True, stride=2),
        dict(kernel_size=1),
        dict(kernel_size=5),
        dict(kappa=1.0, upsilon=1.0),
        dict(stride=3),
        dict(implementation="fused"),
        dict(implementation="softmax"),
    ],
    ids=str,
)
def test_options(options, agree):
    channels = 4 if options.get("positions") == "sinusoidal" else 3
    agree(make(channels=channels, **options), reference, torch.randn(1, channels, 4, 3))


@pytest.mark.parametrize(
    ("out_channels", "kappa", "upsilon", "rounding", "expected"),
    [
        (128, 0.2, 0.1, "nearest", (160, 16)),
        (128, 0.2, 0.1, "floor", (160, 8)),
        (256, 0.2, 0.1, "nearest", (160, 24)),
        (256, 0.2, 0.1, "floor", (160, 24)),
        (512, 0.2, 0.1, "nearest", (160, 48)),
        (512, 0.5, 0.5, "nearest", (256, 256)),
        (512, 1.0, 1.0, "floor", (512, 512)),
        (1000, 0.2, 0.1, "nearest", (200, 104)),
    ],
)
def test_channels_are_rounded_to_multiples_of_heads(out_channels, kappa, upsilon, rounding, expected):
    with torch.device("meta"):
        operator = AttentionAugmentedConv2d(8, out_channels, kappa=kappa, upsilon=upsilon, rounding=rounding)
    assert (operator.key_channels, operator.value_channels) == expected


def test_without_convolution_every_channel_is_attention():
    operator = AttentionAugmentedConv2d(8, 16, kappa=1.0, upsilon=1.0)
    assert operator.conv is None and operator.value_channels == 16
    assert operator(torch.randn(2, 8, 5, 3)).shape == (2, 16, 5, 3)


@pytest.mark.parametrize(("channels", "side"), [(128, 14), (256, 14), (512, 7)])
def test_added_parameters_are_those_of_the_formula(channels, side):
    with torch.device("meta"):
        operator = AttentionAugmentedConv2d(channels, channels, grid=(side, side))
        convolution = torch.nn.Conv2d(channels, channels, 3, bias=False)
    added = sum(p.numel() for p in operator.parameters()) - convolution.weight.numel()
    dk, dv = operator.key_channels, operator.value_channels
    assert added == channels * (2 * dk + dv) + dv**2 + 2 * (2 * side - 1) * dk // 8 - 9 * channels * dv


@pytest.mark.parametrize(
    ("depth", "options", "expected"),
    [
        (50, {}, 25_777_392),
        (50, dict(rounding="floor"), 25_809_392),
        (101, {}, 45_354_728),
        (101, dict(rounding="floor"), 45_386_728),
        (152, {}, 61_549_536),
        (50, dict(kappa=0.25, upsilon=0.25), 24_303_728),
        (50, dict(kappa=0.5, upsilon=0.5), 22_342_680),
        (50, dict(kappa=0.75, upsilon=0.75), 20_735_496),
        (50, dict(kappa=1.0, upsilon=1.0), 19_383_560),
    ],
)
def test_published_networks_have_their_sizes(depth, options, expected):
    """ResNets whose 3 x 3 convolutions of the last three stages are augmented; the first of these stages is pooled."""
    with torch.device("meta"):
        network = getattr(torchvision.models, f"resnet{depth}")()
        for stage, grid in (("layer2", 14), ("layer3", 14), ("layer4", 7)):
            for block in getattr(network, stage):
                block.conv2 = AttentionAugmentedConv2d(
                    block.conv2.in_channels,
                    block.conv2.out_channels,
                    block.conv2.stride[0],
                    grid=(grid, grid),
                    pooled=stage == "layer2",
                    **options,
                )
    assert sum(p.numel() for p in network.parameters()) == expected


def test_heads_that_look_at_one_offset_each_are_a_convolution():
    """Lemma 2 of arXiv 1911.03584: with global attention the convolution has replicated padding."""
    torch.manual_seed(0)
    kernel, alpha, size = 3, 46.0, (6, 5)
    heads, d = kernel**2, 2 * kernel
    weight = torch.randn(5, 2, kernel, kernel, dtype=torch.float64)
    operator = AttentionAugmentedConv2d(
        3, heads * 5, heads=heads, kappa=0.01, upsilon=1.0, min_key_channels=d, grid=size
    ).double()  # the third input channel is constant
    assert operator.key_channels == heads * d
    with torch.no_grad():
        for parameter in operator.parameters():
            parameter.zero_()
        q = operator.kqv.weight[heads * d : 2 * heads * d].view(heads, d, 3)
        v = operator.kqv.weight[2 * heads * d :].view(heads, 5, 3)
        for u in range(kernel):
            for w in range(kernel):
                q[u * kernel + w, [u, kernel + w], 2] = d**0.5  # queries are divided by it
                v[u * kernel + w, :, :2] = weight[:, :, u, w]
        for table, side, columns in zip(
            operator.relative.parameters(), size, (slice(0, kernel), slice(kernel, None)), strict=True
        ):
            offsets = torch.arange(1 - side, side).double()
            table[:, columns] = -alpha * (offsets.unsqueeze(1) - (torch.arange(kernel) - kernel // 2)) ** 2
        operator.output.weight.copy_(torch.eye(heads * 5).view(heads * 5, heads * 5, 1, 1))
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    out = operator(torch.cat([x, torch.ones_like(x[:, :1])], 1)).unflatten(1, (heads, 5)).sum(1)
    expected = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)


def test_map_is_that_of_the_pooled_cells():
    torch.manual_seed(0)
    operator = make(2, pooled=True)
    x = torch.randn(2, 3, 9, 5)
    with record_attention(operator) as maps:
        out = operator(x)
    (found,) = maps[""]
    assert found.weights.shape == (2, 2, 3, 2, 3, 2)
    assert found.rows.tolist() == [[0, 4, 8]] * 3 and found.columns.tolist() == [[0, 4]] * 2
    pooled = F.avg_pool2d(F.avg_pool2d(x, 3, 2, 1), 3, 2, 1)
    values = operator.kqv(pooled)[:, 2 * operator.key_channels :].unflatten(1, (2, -1))
    mixed = operator.output(torch.einsum("bnijhw,bnchw->bncij", found.weights, values).flatten(1, 2))
    upsampled = F.interpolate(mixed, scale_factor=2, mode="bilinear")[:, :, :5, :3]
    torch.testing.assert_close(upsampled, out[:, -operator.value_channels :])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(heads=0), "heads=0 .*at least 1"),
        (dict(min_key_channels=0), "min_key_channels=0 .*at least 1"),
        (dict(kernel_size=2), "kernel_size=2 is even; give an odd number such as 3"),
        (dict(kernel_size=0), "kernel_size=0 .*at least 1"),
        (dict(kappa=0.0), "kappa=0.0 .*above 0"),
        (dict(upsilon=0.0), "upsilon=0.0 .*above 0 and at most 1"),
        (dict(upsilon=1.5), "upsilon=1.5 .*at most 1"),
        (dict(), "upsilon=0.1 of out_channels=16 is 0 channels in 8 heads; give fewer heads or upsilon from 0.5 to 1"),
        (dict(heads=3, upsilon=1.0), None),
        (dict(heads=9, upsilon=1.0), "upsilon=1.0 of out_channels=16 is 18 channels in 9 heads"),
        (dict(grid=(0, 3)), "grid=0 .*at least 1"),
        (dict(rounding="ceil"), "rounding='ceil' .*nearest, floor"),
        (dict(implementation="flash"), "implementation='flash' .*auto"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(options, message):
    if message is None:
        AttentionAugmentedConv2d(16, 16, **options)
        return
    with pytest.raises(ValueError, match=message) as error:
        AttentionAugmentedConv2d(16, 16, **options)
    assert "\n" not in str(error.value)
