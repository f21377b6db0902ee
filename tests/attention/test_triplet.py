"""Triplet attention against its equations: the map rotated as in the paper, gates written out as loops."""

import pytest
import torch
from timm.layers.cbam import SpatialAttn

from attention import TripletAttention, record_attention


def gate(conv, norm, x):
    """Weights (B, 1, P, Q) of `x` (B, N, P, Q), pooled over N: the maximum first, then the mean."""
    lines = list(x.unbind(1))
    planes = torch.stack([torch.stack(lines).max(0).values, sum(lines) / len(lines)], 1)
    reach, (rows, columns) = conv.kernel_size[0] // 2, x.shape[2:]
    scores = torch.zeros_like(planes[:, 0])
    for i in range(rows):
        for j in range(columns):
            for row in range(max(0, i - reach), min(rows, i + reach + 1)):
                for column in range(max(0, j - reach), min(columns, j + reach + 1)):
                    kernel = conv.weight[0, :, row - i + reach, column - j + reach]
                    scores[:, i, j] = scores[:, i, j] + (planes[:, :, row, column] * kernel).sum(1)
    mean, variance = norm.running_mean, norm.running_var
    if norm.training:
        mean = scores.mean()
        variance = ((scores - mean) ** 2).mean()
    scores = (scores - mean) / torch.sqrt(variance + 1e-5) * norm.weight + norm.bias
    return (1 / (1 + torch.exp(-scores))).unsqueeze(1)


def reference(operator, x):
    """Equations 3 to 5 of arXiv 2010.03045."""
    turned = x.permute(0, 2, 1, 3)  # (B, H, C, W)
    parts = [(turned * gate(*operator.channel_width, turned)).permute(0, 2, 1, 3)]
    turned = x.permute(0, 3, 2, 1)  # (B, W, H, C)
    parts.append((turned * gate(*operator.height_channel, turned)).permute(0, 3, 2, 1))
    if operator.height_width is not None:
        parts.append(x * gate(*operator.height_width, x))
    return sum(parts) / len(parts)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("kernel_size", "spatial"), [(7, True), (3, True), (3, False)])
def test_equation_forward_and_backward(kernel_size, spatial, training, size, agree):
    torch.manual_seed(0)
    agree(TripletAttention(4, kernel_size, spatial).train(training), reference, torch.randn(2, 4, *size))


def test_branches_equal_timms_spatial_attention_of_the_rotated_map(same_function):
    class Rotated(torch.nn.Module):
        def __init__(self, ours):
            super().__init__()
            self.parts = torch.nn.ModuleList()
            for conv, norm in (ours.channel_width, ours.height_channel, ours.height_width):
                part = SpatialAttn().double()
                part.conv.bn.load_state_dict(norm.state_dict())
                with torch.no_grad():
                    part.conv.conv.weight.copy_(conv.weight.flip(1))  # timm stacks [mean, max]
                self.parts.append(part)

        def forward(self, x):
            turns = ((0, 2, 1, 3), (0, 3, 2, 1), (0, 1, 2, 3))
            return sum(part(x.permute(t)).permute(t) for part, t in zip(self.parts, turns, strict=True)) / 3

    torch.manual_seed(0)
    ours = TripletAttention(12)
    for value in ours.parameters():
        torch.nn.init.normal_(value)
    for training in (True, False):
        same_function(ours.train(training), Rotated(ours).train(training), torch.randn(2, 12, 9, 7))


def test_starts_as_published():
    torch.manual_seed(0)
    operator = TripletAttention(8)
    weights = [branch[1].weight.item() for branch in (operator.channel_width, operator.height_channel)]
    assert weights == [1, 1] and operator.height_width[1].weight.item() == 0
    assert operator.channel_width[1].momentum == 0.01
    assert operator.channel_width[0].weight.std().item() == pytest.approx((2 / 49) ** 0.5, rel=0.2)
    assert sum(value.numel() for value in operator.parameters()) == 300
    assert sum(value.numel() for value in TripletAttention(2048, spatial=False).parameters()) == 200


@pytest.mark.parametrize("spatial", [True, False])
def test_recorded_weights_reproduce_the_output(spatial):
    torch.manual_seed(0)
    operator, x = TripletAttention(16, spatial=spatial), torch.randn(2, 16, 5, 6)
    with record_attention(operator) as maps:
        out = operator(x)
    found = {each.name: each.weights for each in maps[""]}
    shapes = {"column": (2, 16, 1, 6), "row": (2, 16, 5, 1), "position": (2, 1, 5, 6)}
    assert {name: weights.shape for name, weights in found.items()} == dict(list(shapes.items())[: 2 + spatial])
    torch.testing.assert_close(out, x * sum(found.values()) / len(found))


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match=r"kernel_size=4 .*odd"):
        TripletAttention(16, 4)
