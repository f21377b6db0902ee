"""Local filters, windows, outlook and dual attention and other newer operators beside peers of the same parameters.

Peers are modules of torchvision, timm and MMSegmentation, or the equation in plain PyTorch, as published code has it.
Both sides get a map and give one in the same memory format, as a host expects.
"""

from collections.abc import Callable
from functools import partial

import torch
from timm.models.volo import OutlookAttention as TimmOutlookAttention
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.swin_transformer import ShiftedWindowAttention

from attention import (
    DoubleAttention,
    DualAttention,
    DynamicFilter,
    LearnToPayGate,
    LocalFilter,
    OutlookAttention,
    ProgressiveAttention,
    SelfCalibratedConv2d,
    StripPooling,
    WindowAttention,
)
from attention.functional.layout import in_format_of
from benchmarks.attention_cases import Bounds, Call, Comparison

SIZE = (2, 96, 56, 56)
SMALLER = (2, 96, 40, 40)
"""For what has a weight for every two positions."""


class UnfoldedFilter(nn.Module):
    """A local filter with all k^2 neighbours of every position side by side, of the layers of ours."""

    def __init__(self, ours: LocalFilter) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, x: Tensor) -> Tensor:
        """Mixes a map."""
        ours, k = self.ours, self.ours.kernel_size
        (batch, _, height, width), heads = x.shape, self.ours.heads
        inside = F.unfold(torch.ones_like(x[:1, :1]), k, padding=k // 2).unsqueeze(1) > 0  # (1, 1, k k, H W)

        def neighbours(projected: Tensor) -> Tensor:
            return F.unfold(projected, k, padding=k // 2).view(batch, heads, -1, k * k, height * width)

        assert ours.query is not None
        queries = ours.query(x).view(batch, heads, -1, height * width)
        scores = ours.relative_bias.view(1, heads, k * k, 1)
        if ours.key is not None:
            scores = scores + ours.scale * torch.einsum("bhdn,bhdtn->bhtn", queries, neighbours(ours.key(x)))
        if ours.relative_query is not None:
            scores = scores + torch.einsum("bhdn,hdt->bhtn", queries, ours.relative_query)
        weights = scores.masked_fill(~inside, -torch.inf).softmax(2)
        mixed = (neighbours(ours.value(x)) * weights.unsqueeze(2)).sum(3)
        return in_format_of(x, ours.out(mixed.view(batch, -1, height, width)))


class OnMaps(nn.Module):
    """A module for tensors (B, H, W, C) as one for maps (B, C, H, W)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Mixes a map."""
        return in_format_of(x, self.module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class UnfoldedDynamicFilter(nn.Module):
    """A decoupled dynamic filter with all k^2 neighbours of every position side by side, of the layers of ours."""

    def __init__(self, ours: DynamicFilter) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, x: Tensor) -> Tensor:
        """Mixes a map."""
        ours, k = self.ours, self.ours.kernel_size
        batch, _, height, width = x.shape
        of_positions = _standardized(ours.spatial(x).flatten(2), 1)  # (B, k k, H W)
        of_positions = of_positions * ours.spatial_gain[:, None] + ours.spatial_shift[:, None]
        pooled = F.adaptive_avg_pool2d(x, 1)
        of_channels = _standardized(ours.channel(pooled).view(batch, -1, k * k), 2)  # (B, C, k k)
        of_channels = of_channels * ours.channel_gain.view(-1, k * k) + ours.channel_shift.view(-1, k * k)
        neighbours = F.unfold(ours.value(x), k, padding=k // 2).view(batch, -1, k * k, height * width)
        mixed = (neighbours * (of_positions.unsqueeze(1) * of_channels.unsqueeze(3))).sum(2)
        return in_format_of(x, ours.out(mixed.view(batch, -1, height, width)))


def _standardized(filters: Tensor, axis: int) -> Tensor:
    variance, average = torch.var_mean(filters, axis, correction=0, keepdim=True)
    return (filters - average) / (variance + 1e-5).sqrt()


class MMSegDualAttention(nn.Module):
    """Both modules of MMSegmentation, which have the map in their sums; one of the two is taken away."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        from mmseg.models.decode_heads.da_head import CAM, PAM  # takes seconds

        self.position, self.channel = PAM(channels, width), CAM()

    def forward(self, x: Tensor) -> Tensor:
        """Adds to a map."""
        out: Tensor = self.position(x) + self.channel(x) - x
        return out


class PublishedStripPooling(nn.Module):
    """Strip pooling as its authors formulate it, of the layers of ours."""

    def __init__(self, ours: StripPooling) -> None:
        super().__init__()
        self.pool_rows, self.pool_columns = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        self.rows = nn.Sequential(ours.conv_rows, ours.bn_rows)
        self.columns = nn.Sequential(ours.conv_columns, ours.bn_columns)
        self.conv = ours.conv

    def forward(self, x: Tensor) -> Tensor:
        """Weights a map."""
        rows = self.rows(self.pool_rows(x)).expand_as(x)
        columns = self.columns(self.pool_columns(x)).expand_as(x)
        return x * torch.sigmoid(self.conv(F.relu(rows + columns)))


class PlainDoubleAttention(nn.Module):
    """Double attention by its equations, of the layers of ours."""

    def __init__(self, ours: DoubleAttention) -> None:
        super().__init__()
        self.feature, self.gather, self.distribute, self.out = ours.feature, ours.gather, ours.distribute, ours.out

    def forward(self, x: Tensor) -> Tensor:
        """Adds to a map."""
        features = self.feature(x).flatten(2)
        gathering, distributing = self.gather(x).flatten(2).softmax(2), self.distribute(x).flatten(2).softmax(1)
        read = features.bmm(gathering.transpose(1, 2)).bmm(distributing)
        out: Tensor = self.out(read.unflatten(2, x.shape[2:]))
        return x + out


class PublishedSelfCalibrated(nn.Module):
    """Self-calibrated convolution as its authors formulate it, of the layers of ours."""

    def __init__(self, ours: SelfCalibratedConv2d) -> None:
        super().__init__()
        self.k1, self.k3, self.k4 = ours.k1, nn.Sequential(ours.k3, ours.bn3), ours.k4
        self.k2 = nn.Sequential(nn.AvgPool2d(ours.pooling, ours.pooling), ours.k2, ours.bn2)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes a map."""
        calibrated, plain = torch.split(x, x.shape[1] // 2, 1)
        gate = torch.sigmoid(calibrated + F.interpolate(self.k2(calibrated), calibrated.shape[2:]))
        return torch.cat([self.k4(self.k3(calibrated) * gate), self.k1(plain)], 1)


class PlainLearnToPay(nn.Module):
    """Learn to pay attention as a gate by its equations, of the layer of ours."""

    def __init__(self, ours: LearnToPayGate) -> None:
        super().__init__()
        self.descriptor = ours.descriptor

    def forward(self, x: Tensor) -> Tensor:
        """Weights a map."""
        scores = torch.einsum("bchw,bc->bhw", x, self.descriptor(x.mean((2, 3))))
        gate = scores.flatten(1).softmax(1) * (x.shape[2] * x.shape[3])
        return x * gate.view(x.shape[0], 1, *x.shape[2:])


class PlainProgressive(nn.Module):
    """Progressive attention by its equations, of the layers of ours."""

    def __init__(self, ours: ProgressiveAttention) -> None:
        super().__init__()
        self.context, self.query, self.score = ours.context, ours.query, ours.score

    def forward(self, x: Tensor) -> Tensor:
        """Weights a map."""
        hidden = F.relu(self.context(x) + self.query(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.score(hidden))


def _pair(
    make: Callable[[int], tuple[nn.Module, nn.Module]], size: tuple[int, ...] = SIZE
) -> tuple[Call, Call, list[Tensor]]:
    """Both sides for maps with so many channels, and a map that requires gradients."""
    torch.manual_seed(1)
    return *make(size[1]), [torch.randn(size, requires_grad=True)]


def _local_filter(channels: int, terms: tuple[str, ...]) -> tuple[nn.Module, nn.Module]:
    ours = LocalFilter(channels, channels, terms=terms)  # type: ignore[arg-type]  # of its literals
    return ours, UnfoldedFilter(ours)


def _window(channels: int) -> tuple[nn.Module, nn.Module]:
    ours, peer = WindowAttention(channels, channels), ShiftedWindowAttention(channels, [7, 7], [0, 0], channels // 32)
    layers = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        peer.qkv.weight.copy_(torch.cat([layer.weight.flatten(1) for layer in layers if layer is not None]))
        peer.qkv.bias.copy_(torch.cat([layer.bias for layer in layers if layer is not None and layer.bias is not None]))
        peer.proj.weight.copy_(ours.out.weight.flatten(1))
        peer.proj.bias.copy_(ours.out.bias)
        peer.relative_position_bias_table.copy_(ours.relative_bias.flip(1).T)  # query minus key
    return ours, OnMaps(peer)


def _dynamic_filter(channels: int) -> tuple[nn.Module, nn.Module]:
    ours = DynamicFilter(channels, channels)
    return ours, UnfoldedDynamicFilter(ours)


def _outlook(channels: int) -> tuple[nn.Module, nn.Module]:
    ours = OutlookAttention(channels, channels, heads=channels // 32)
    peer = TimmOutlookAttention(channels, ours.heads, stride=ours.grid_stride)
    peer.load_state_dict(ours.state_dict())
    return ours, OnMaps(peer)


def _dual(channels: int) -> tuple[nn.Module, nn.Module]:
    ours, peer = DualAttention(channels), MMSegDualAttention(channels, channels // 8)
    with torch.no_grad():
        for scale, of_peer in ((ours.alpha, peer.position.gamma.scale), (ours.beta, peer.channel.gamma.scale)):
            of_peer.copy_(nn.init.constant_(scale, 0.5).squeeze())  # at zero, as they start, nothing would be added
        for name in ("query", "key", "value"):
            layer, (weight, bias) = getattr(ours, name), getattr(peer.position, f"{name}_project").parameters()
            weight.copy_(layer.weight)
            bias.copy_(layer.bias)
    return ours, peer


def _strip_pooling(channels: int) -> tuple[nn.Module, nn.Module]:
    ours = StripPooling(channels)
    return ours, PublishedStripPooling(ours)


def _double(channels: int) -> tuple[nn.Module, nn.Module]:
    ours = DoubleAttention(channels)
    nn.init.normal_(ours.out.weight)  # at zero, as it starts, nothing would be added
    return ours, PlainDoubleAttention(ours)


def _self_calibrated(channels: int) -> tuple[nn.Module, nn.Module]:
    ours = SelfCalibratedConv2d(channels, channels)
    return ours, PublishedSelfCalibrated(ours)


def _learn_to_pay(channels: int) -> tuple[nn.Module, nn.Module]:
    ours = LearnToPayGate(channels)
    nn.init.normal_(ours.descriptor.weight, std=0.1)  # at zero, as it starts, all weights would be equal
    return ours, PlainLearnToPay(ours)


def _progressive(channels: int) -> tuple[nn.Module, nn.Module]:
    ours = ProgressiveAttention(channels)
    nn.init.normal_(ours.score.weight)  # at zero, as it starts, the gate would be a constant
    return ours, PlainProgressive(ours)


_NOT_SLOWER = Bounds(forward=0.98, training=0.98)

COMPARISONS = [
    Comparison(
        "local filter of content and bias / unfolded, 2x96x56x56",
        partial(_pair, partial(_local_filter, terms=("content", "bias"))),
        _NOT_SLOWER,
        channels_last=True,
    ),
    Comparison(
        "local filter of query and bias / unfolded, 2x96x56x56",
        partial(_pair, partial(_local_filter, terms=("query", "bias"))),
        _NOT_SLOWER,
        channels_last=True,
    ),
    Comparison("window attention / torchvision, 2x96x56x56", partial(_pair, _window), _NOT_SLOWER, channels_last=True),
    Comparison(
        "dynamic filter / unfolded, 2x96x56x56", partial(_pair, _dynamic_filter), _NOT_SLOWER, channels_last=True
    ),
    Comparison("outlook attention / timm, 2x96x56x56", partial(_pair, _outlook), _NOT_SLOWER, channels_last=True),
    Comparison(
        "dual attention / MMSegmentation, 2x96x40x40", partial(_pair, _dual, SMALLER), _NOT_SLOWER, tolerance=1e-3
    ),
    Comparison(
        "strip pooling / published formulation, 2x96x56x56",
        partial(_pair, _strip_pooling),
        _NOT_SLOWER,
        channels_last=True,
    ),
    Comparison("double attention / plain, 2x96x56x56", partial(_pair, _double), _NOT_SLOWER, channels_last=True),
    Comparison(
        "self-calibrated convolution / published formulation, 2x96x56x56",
        partial(_pair, _self_calibrated),
        _NOT_SLOWER,
        channels_last=True,
    ),
    Comparison(
        "learn to pay, gate / plain, 2x96x56x56",
        partial(_pair, _learn_to_pay),
        _NOT_SLOWER,
        channels_last=True,
    ),
    Comparison(
        "progressive attention / plain, 2x96x56x56", partial(_pair, _progressive), _NOT_SLOWER, channels_last=True
    ),
]
