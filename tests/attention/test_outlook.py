"""Outlook attention against the equation of arXiv 2106.13112, window by window, and against timm."""

import pytest
import torch
from timm.models.volo import OutlookAttention as Timms
from torch import nn

from attention import OutlookAttention, record_attention


def linear(layer, x):
    out = x @ layer.weight.T
    return out if layer.bias is None else out + layer.bias


def reference(operator, x):
    """Every window hands the sums of its cells to its cells; positions of the map collect them."""
    batch, _, height, width = x.shape
    k, s, heads = operator.kernel_size, operator.grid_stride, operator.heads
    depth = operator.out_channels // heads
    cells = [(a, b) for a in range(k) for b in range(k)]
    values = [[linear(operator.v, x[:, :, i, j]) for j in range(width)] for i in range(height)]
    collected = [[x.new_zeros(batch, operator.out_channels) for _ in range(width)] for _ in range(height)]
    for top in range(0, height, s):
        for left in range(0, width, s):
            centre = x[:, :, top : top + s, left : left + s].mean((2, 3))
            logits = linear(operator.attn, centre).view(batch, heads, k * k, k * k) / depth**0.5
            exponentials = torch.exp(logits - logits.detach().amax(-1, keepdim=True))
            weights = exponentials / exponentials.sum(-1, keepdim=True)
            places = [(top + a - k // 2, left + b - k // 2) for a, b in cells]
            inside = [0 <= i < height and 0 <= j < width for i, j in places]
            for a, (i, j) in enumerate(places):
                if not inside[a]:
                    continue
                for b, (m, n) in enumerate(places):
                    if inside[b]:
                        shares = weights[:, :, a, b].repeat_interleave(depth, 1)
                        collected[i][j] = collected[i][j] + shares * values[m][n]
    r = operator.stride
    lines = []
    for i in range(0, height, r):
        line = []
        for j in range(0, width, r):
            cell = [collected[m][n] for m in range(i, min(i + r, height)) for n in range(j, min(j + r, width))]
            line.append(linear(operator.proj, sum(cell) / len(cell)))
        lines.append(torch.stack(line, 2))
    return torch.stack(lines, 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (4, 6)])
@pytest.mark.parametrize("grid_stride", [1, 2, 3])
def test_equation_forward_and_backward(grid_stride, size, agree):
    torch.manual_seed(0)
    agree(OutlookAttention(3, 4, 1, 2, 3, grid_stride), reference, 0.5 * torch.randn(2, 3, *size))


@pytest.mark.parametrize(
    "options",
    [{"stride": 2}, {"stride": 3, "grid_stride": 1}, {"kernel_size": 1, "grid_stride": 1}, {"bias": True}],
    ids=str,
)
def test_options(options, agree):
    torch.manual_seed(0)
    agree(OutlookAttention(3, 4, **{"heads": 2} | options), reference, 0.5 * torch.randn(2, 3, 5, 4))


def test_larger_windows(agree):
    torch.manual_seed(0)
    agree(OutlookAttention(2, 2, 1, 1, 5, 4), reference, 0.2 * torch.randn(1, 2, 6, 5))


class ChannelsFirst(nn.Module):
    def __init__(self, peer):
        super().__init__()
        self.peer = peer

    def forward(self, x):
        return self.peer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(14, 14), (9, 7), (1, 1)])
@pytest.mark.parametrize(("grid_stride", "bias"), [(1, False), (2, False), (2, True)])
def test_equals_timm_with_copied_weights(grid_stride, bias, size, same_function):
    torch.manual_seed(0)
    ours = OutlookAttention(24, 24, heads=3, grid_stride=grid_stride, bias=bias)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.5)
    peer = Timms(24, 3, 3, 1, grid_stride, bias)
    peer.load_state_dict(ours.state_dict())
    same_function(ours, ChannelsFirst(peer), torch.randn(2, 24, *size))


def test_size_of_the_published_module():
    """VOLO-D1's, 192 channels in 6 heads."""
    expected = 192 * 192 + 193 * 6 * 81 + 192 * 193
    assert sum(p.numel() for p in OutlookAttention(192, 192, heads=6).parameters()) == expected == 167_718


@pytest.mark.parametrize("grid_stride", [1, 2])
def test_maps_reproduce_the_output(grid_stride):
    torch.manual_seed(0)
    operator = OutlookAttention(8, 6, heads=2, grid_stride=grid_stride)
    for parameter in operator.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 8, 6, 7)
    with record_attention(operator) as maps:
        out = operator(x)
    (recorded,) = maps[""]
    assert recorded.weights.shape == (2, 2, 6, 7, 5, 5)
    values = operator.v(x.permute(0, 2, 3, 1)).unflatten(3, (2, 3))
    padded = nn.functional.pad(values, (0, 0, 0, 0, 2, 2, 2, 2))
    windows = padded.unfold(1, 5, 1).unfold(2, 5, 1)  # (B, H, W, heads, D, 5, 5)
    mixed = torch.einsum("bnijyx,bijncyx->bijnc", recorded.weights, windows).flatten(3)
    torch.testing.assert_close(operator.proj(mixed).permute(0, 3, 1, 2), out, rtol=1e-4, atol=1e-5)
    covered = recorded.weights.sum((-1, -2))[0, 0]  # every window that covers a position gives it weights of sum one
    if grid_stride == 1:
        assert covered[2, 2].item() == pytest.approx(9) and covered[0, 0].item() == pytest.approx(4)
    else:
        assert [covered[i, j].item() for i, j in ((2, 2), (2, 3), (3, 3))] == pytest.approx([1, 2, 4])


def test_nothing_of_the_size_of_all_windows_is_kept():
    operator = OutlookAttention(64, 64, heads=2)
    x = torch.randn(1, 64, 24, 24, requires_grad=True)
    saved = []

    def note(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        operator(x)
    assert max(saved) <= x.numel()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 0}, "heads=0 .*at least 1"),
        ({"heads": 3}, "out_channels=8 is not a multiple of heads=3"),
        ({"kernel_size": 2}, "kernel_size=2 has no centre"),
        ({"grid_stride": 0}, "grid_stride=0 .*at least 1"),
        ({"grid_stride": 4}, "grid_stride=4 .*at most kernel_size=3"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(options, message):
    with pytest.raises(ValueError, match=message) as error:
        OutlookAttention(8, 8, **options)
    assert "\n" not in str(error.value)
