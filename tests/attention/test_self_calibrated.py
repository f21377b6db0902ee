"""Self-calibrated convolution against the equations of its paper, and as parts of PyTorch at sizes that 4 divides."""

import math

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from attention import SelfCalibratedConv2d, record_attention


def convolved(weight, x, stride=1):
    """3 x 3 convolution with zeros around the map, position by position."""
    height, width = x.shape[2:]
    lines = []
    for i in range(0, height, stride):
        line = []
        for j in range(0, width, stride):
            total = x.new_zeros(len(x), len(weight))
            for a in range(3):
                for b in range(3):
                    row, column = i + a - 1, j + b - 1
                    if 0 <= row < height and 0 <= column < width:
                        total = total + x[:, :, row, column] @ weight[:, :, a, b].T
            line.append(total)
        lines.append(torch.stack(line, 2))
    return torch.stack(lines, 2)


def normalised(norm, x):
    centre, variance = norm.running_mean.view(1, -1, 1, 1), norm.running_var.view(1, -1, 1, 1)
    if norm.training:
        centre = x.mean((0, 2, 3), keepdim=True)
        variance = (x - centre).square().mean((0, 2, 3), keepdim=True)
    x = (x - centre) / torch.sqrt(variance + norm.eps)
    return x * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)


def interpolated(cells, r, height, width, mode):
    """Value at every position of a map, cell by cell."""
    for axis, size in ((2, height), (3, width)):
        places = []
        for place in range(size):
            if mode == "nearest":
                places.append(cells.select(axis, place // r))
                continue
            last = cells.shape[axis] - 1
            at = min(max((place + 0.5) / r - 0.5, 0), last)
            low = math.floor(at)
            high = min(low + 1, last)
            places.append(cells.select(axis, low) * (1 - (at - low)) + cells.select(axis, high) * (at - low))
        cells = torch.stack(places, axis)
    return cells


def reference(operator, x):
    height, width = x.shape[2:]
    half, r = operator.in_channels // 2, operator.pooling
    first, second = x[:, :half], x[:, half:]
    cells = [[first[:, :, i : i + r, j : j + r].mean((2, 3)) for j in range(0, width, r)] for i in range(0, height, r)]
    cells = torch.stack([torch.stack(line, 2) for line in cells], 2)
    coarse = normalised(operator.bn2, convolved(operator.k2.weight, cells))
    gate = 1 / (1 + torch.exp(-first - interpolated(coarse, r, height, width, operator.upsampling)))
    calibrated = normalised(operator.bn3, convolved(operator.k3.weight, first)) * gate
    parts = [
        convolved(operator.k4.weight, calibrated, operator.stride),
        convolved(operator.k1.weight, second, operator.stride),
    ]
    return torch.cat(parts, 1)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (8, 9)])
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_equation_forward_and_backward(upsampling, size, agree):
    torch.manual_seed(0)
    agree(SelfCalibratedConv2d(4, 6, upsampling=upsampling).eval(), reference, torch.randn(2, 4, *size))


@pytest.mark.parametrize(("stride", "pooling"), [(1, 1), (2, 2), (2, 4), (3, 3)])
def test_strides_cells_and_statistics(stride, pooling, agree):
    torch.manual_seed(0)
    agree(SelfCalibratedConv2d(6, 4, stride, pooling).train(), reference, torch.randn(2, 6, 6, 5))


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_equals_parts_of_pytorch_where_cells_divide_the_map(upsampling, same_function):
    class Parts(nn.Module):
        def __init__(self, ours):
            super().__init__()
            self.gating = nn.Sequential(nn.AvgPool2d(4), ours.k2, ours.bn2)
            self.inner = nn.Sequential(ours.k3, ours.bn3)
            self.k1, self.k4 = ours.k1, ours.k4

        def forward(self, x):
            first, second = x[:, :8], x[:, 8:]
            coarse = F.interpolate(self.gating(first), first.shape[2:], mode=upsampling)
            return torch.cat([self.k4(self.inner(first) * (first + coarse).sigmoid()), self.k1(second)], 1)

    torch.manual_seed(0)
    ours = SelfCalibratedConv2d(16, 12, 2, upsampling=upsampling).eval()
    for norm in (ours.bn2, ours.bn3):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.running_mean)
    same_function(ours, Parts(ours), torch.randn(2, 16, 12, 20))


def test_scnet_50_has_the_size_of_its_paper():
    """25.6 M: in place of the 3 x 3 convolutions, whose normalisation stays behind it."""
    with torch.device("meta"):
        network = torchvision.models.resnet50()
        for block in network.modules():
            if isinstance(block, torchvision.models.resnet.Bottleneck):
                conv = block.conv2
                block.conv2 = SelfCalibratedConv2d(conv.in_channels, conv.out_channels, conv.stride[0])
    assert sum(p.numel() for p in network.parameters()) == 25_564_584


def test_map_reproduces_the_output():
    torch.manual_seed(0)
    operator, x = SelfCalibratedConv2d(8, 6), torch.randn(2, 8, 5, 3)
    with record_attention(operator) as maps:
        out = operator(x)
    (recorded,) = maps[""]
    assert recorded.name == "cell" and recorded.weights.shape == (2, 4, 5, 3)
    assert recorded.heat_map(5, 3).shape == (2, 5, 3)
    inner = operator.bn3(operator.k3(x[:, :4]))
    torch.testing.assert_close(out[:, :3], operator.k4(inner * recorded.weights))


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ((7, 8), {}, "in_channels=7 has no halves; give an even number such as 8"),
        ((8, 3), {}, "out_channels=3 has no halves"),
        ((8, 8), {"pooling": 0}, "pooling=0 .*at least 1"),
        ((8, 8), {"upsampling": "area"}, "upsampling='area' .*nearest, bilinear"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(given, options, message):
    with pytest.raises(ValueError, match=message):
        SelfCalibratedConv2d(*given, **options)
