"""Channel and spatial gates beside timm's modules and the published formulations, on a map of a detector's stage."""

from collections.abc import Callable

import torch
from timm.layers import EcaModule, SEModule
from timm.layers import GatherExcite as TimmGatherExcite
from timm.layers import GlobalContext as TimmGlobalContext
from timm.layers.cbam import CbamModule
from timm.layers.coord_attn import CoordAttn
from torch import Tensor, nn
from torch.nn import functional as F

from attention import (
    BAM,
    CBAM,
    CoordinateAttention,
    EfficientChannelAttention,
    EfficientMultiScaleAttention,
    GatedChannelTransformation,
    GatherExcite,
    GlobalContext,
    LargeKernelAttention,
    SecondOrderPooling,
    SimAM,
    SqueezeExcitation,
    TripletAttention,
)
from benchmarks.attention_cases import Bounds, Call, Comparison

SIZE = (2, 256, 100, 136)


class PublishedCoordinateAttention(nn.Module):
    """Coordinate attention as its authors formulate it, of the layers of ours."""

    def __init__(self, ours: CoordinateAttention) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv_h, self.conv_w = ours.conv1, ours.bn1, ours.conv_h, ours.conv_w
        self.pool_h, self.pool_w = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))

    def forward(self, x: Tensor) -> Tensor:
        """Weights a map."""
        height, width = x.shape[2:]
        y = torch.cat([self.pool_h(x), self.pool_w(x).permute(0, 1, 3, 2)], 2)
        y = self.bn1(self.conv1(y))
        y = y * (F.relu6(y + 3) / 6)
        of_rows, of_columns = torch.split(y, [height, width], 2)
        a_h = self.conv_h(of_rows).sigmoid()
        a_w = self.conv_w(of_columns.permute(0, 1, 3, 2)).sigmoid()
        return x * a_w * a_h


class PublishedCBAM(nn.Module):
    """CBAM as its authors formulate it, of the layers of ours."""

    def __init__(self, ours: CBAM) -> None:
        super().__init__()
        self.fc1, self.fc2 = ours.channel.fc1, ours.channel.fc2
        self.conv, self.bn = ours.spatial.conv, ours.spatial.bn

    def forward(self, x: Tensor) -> Tensor:
        """Weights a map."""
        size = (x.shape[2], x.shape[3])
        scores = None
        for pooled in (F.avg_pool2d(x, size, stride=size), F.max_pool2d(x, size, stride=size)):
            score = self.fc2(F.relu(self.fc1(pooled)))
            scores = score if scores is None else scores + score
        x = x * torch.sigmoid(scores).expand_as(x)
        planes = torch.cat([torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)], 1)
        return x * torch.sigmoid(self.bn(self.conv(planes)))


class PublishedBAM(nn.Module):
    """BAM as its authors formulate it, of the layers of ours; their pooling with the kernel (H, W)."""

    def __init__(self, ours: BAM) -> None:
        super().__init__()
        self.channel, self.position = ours.channel, ours.position

    def forward(self, x: Tensor) -> Tensor:
        """Weights a map."""
        size = (x.shape[2], x.shape[3])
        channel = self.channel(F.avg_pool2d(x, size, stride=size).flatten(1))[:, :, None, None].expand_as(x)
        position = self.position(x).expand_as(x)
        return (1 + torch.sigmoid(channel * position)) * x


class PlainSimAM(nn.Module):
    """SimAM by its equation, in the map's precision and whatever layout reductions choose."""

    def forward(self, x: Tensor) -> Tensor:
        """Weights a map."""
        variance, average = torch.var_mean(x, (2, 3), keepdim=True)
        return x * torch.sigmoid((x - average) ** 2 / (4 * (variance + 1e-4)) + 0.5)


class PlainGatedChannel(nn.Module):
    """The gated channel transformation by its equation, of the parameters of ours."""

    def __init__(self, ours: GatedChannelTransformation) -> None:
        super().__init__()
        self.alpha, self.gamma, self.beta = ours.alpha, ours.gamma, ours.beta

    def forward(self, x: Tensor) -> Tensor:
        """Weights a map."""
        scores = self.alpha * (x.pow(2).sum((2, 3)) + 1e-5).sqrt()  # (B, C)
        scores = scores / (scores.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()
        return x * (1 + torch.tanh(self.gamma * scores + self.beta))[:, :, None, None]


class RotatedTriplet(nn.Module):
    """Triplet attention as the paper draws it: the map rotated, weighted and rotated back in every branch."""

    def __init__(self, ours: TripletAttention) -> None:
        super().__init__()
        self.branches = nn.ModuleList([ours.channel_width, ours.height_channel, ours.height_width or nn.Identity()])

    def forward(self, x: Tensor) -> Tensor:
        """Weights a map."""
        out = torch.zeros_like(x)
        for branch, turn in zip(self.branches, ((0, 2, 1, 3), (0, 3, 2, 1), (0, 1, 2, 3)), strict=True):
            turned = x.permute(turn).contiguous()
            planes = torch.cat([turned.max(1, keepdim=True).values, turned.mean(1, keepdim=True)], 1)
            out = out + (turned * torch.sigmoid(branch(planes))).permute(turn).contiguous()
        return out / 3


class PlainMultiScale(nn.Module):
    """Efficient multi-scale attention with all four averages taken, of the layers of ours."""

    def __init__(self, ours: EfficientMultiScaleAttention) -> None:
        super().__init__()
        self.groups, self.conv1, self.conv3, self.norm = ours.groups, ours.conv1, ours.conv3, ours.norm

    def forward(self, x: Tensor) -> Tensor:
        """Weights a map."""
        group = x.reshape(x.shape[0] * self.groups, -1, *x.shape[2:])
        joint = self.conv1(torch.cat([group.mean(3, keepdim=True), group.mean(2)[..., None]], 2)).sigmoid()
        of_rows, of_columns = joint[:, :, : x.shape[2]], joint[:, :, x.shape[2] :].transpose(2, 3)
        p, q = self.norm(group * of_rows * of_columns), self.conv3(group)
        scores = [
            torch.einsum("nc,nchw->nhw", F.softmax(one.mean((2, 3)), 1), other) for one, other in ((p, q), (q, p))
        ]
        return (group * torch.sigmoid(scores[0] + scores[1]).unsqueeze(1)).reshape(x.shape)


class PlainLargeKernel(nn.Module):
    """Large kernel attention as a chain of the layers of ours."""

    def __init__(self, ours: LargeKernelAttention) -> None:
        super().__init__()
        self.chain = nn.Sequential(ours.near, ours.far, ours.mix)

    def forward(self, x: Tensor) -> Tensor:
        """Weights a map."""
        return x.clone() * self.chain(x)


class PlainSecondOrder(nn.Module):
    """Second-order pooling with the covariance as a product with a centring matrix, of the layers of ours."""

    def __init__(self, ours: SecondOrderPooling) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.ReLU(), ours.reduce, ours.reduce_norm, nn.ReLU())
        self.excite = nn.Sequential(ours.row_norm, ours.row, ours.fc, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Weights a map."""
        values = self.reduce(x).flatten(2)
        cells = values.shape[2]
        averages = values.mean(2, keepdim=True)
        covariance = values.bmm(values.transpose(1, 2)) / cells - averages.bmm(averages.transpose(1, 2))
        return x * self.excite(covariance.unsqueeze(3))


def _pair(make: Callable[[], tuple[nn.Module, nn.Module]]) -> Callable[[], tuple[Call, Call, list[Tensor]]]:
    """Operators in training mode with a map that requires gradients."""

    def prepare() -> tuple[Call, Call, list[Tensor]]:
        torch.manual_seed(1)
        return *make(), [torch.randn(SIZE, requires_grad=True)]

    return prepare


def _se() -> tuple[nn.Module, nn.Module]:
    ours, peer = SqueezeExcitation(SIZE[1]), SEModule(SIZE[1], rd_ratio=1 / 16, rd_divisor=1)
    peer.load_state_dict(ours.state_dict())
    return ours, peer


def _eca() -> tuple[nn.Module, nn.Module]:
    ours, peer = EfficientChannelAttention(SIZE[1]), EcaModule(SIZE[1])
    peer.load_state_dict(ours.state_dict())
    return ours, peer


def _coordinate_published() -> tuple[nn.Module, nn.Module]:
    ours = CoordinateAttention(SIZE[1])
    return ours, PublishedCoordinateAttention(ours)


def _coordinate_timm() -> tuple[nn.Module, nn.Module]:
    ours, peer = CoordinateAttention(SIZE[1]), CoordAttn(SIZE[1], rd_channels=8, bias=True)
    peer.load_state_dict(ours.state_dict())
    return ours, peer


def _live_cbam() -> CBAM:
    ours = CBAM(SIZE[1])
    nn.init.ones_(ours.spatial.bn.weight)  # at zero, as it starts, the spatial gate would be a constant
    return ours


def _cbam_published() -> tuple[nn.Module, nn.Module]:
    ours = _live_cbam()
    return ours, PublishedCBAM(ours)


def _cbam_timm() -> tuple[nn.Module, nn.Module]:
    ours, peer = _live_cbam(), CbamModule(SIZE[1], mlp_bias=True)
    peer.channel.load_state_dict(ours.channel.state_dict())
    peer.spatial.conv.bn.load_state_dict(ours.spatial.bn.state_dict())
    with torch.no_grad():
        peer.spatial.conv.conv.weight.copy_(ours.spatial.conv.weight.flip(1))  # timm stacks [mean, max]
    return ours, peer


def _bam() -> tuple[nn.Module, nn.Module]:
    ours = BAM(SIZE[1])
    return ours, PublishedBAM(ours)


def _global_context() -> tuple[nn.Module, nn.Module]:
    ours = GlobalContext(SIZE[1], epsilon=1e-6)
    nn.init.normal_(ours.fc2.weight, std=0.1)  # at zero, as it starts, the context would have no gradient
    peer = TimmGlobalContext(SIZE[1], fuse_add=True, fuse_scale=False, rd_ratio=0.25)
    names = {"key.": "conv_attn.", "norm.": "mlp_add.norm.", "fc": "mlp_add.fc"}
    state = {}
    for name, value in ours.state_dict().items():
        prefix = next(prefix for prefix in names if name.startswith(prefix))
        state[names[prefix] + name.removeprefix(prefix)] = value
    peer.load_state_dict(state)
    return ours, peer


def _gather_excite(extent: int | None) -> tuple[nn.Module, nn.Module]:
    return GatherExcite(SIZE[1], extent), TimmGatherExcite(SIZE[1], extent=extent or 0, use_mlp=False)


def _gated_channel() -> tuple[nn.Module, nn.Module]:
    ours = GatedChannelTransformation(SIZE[1])
    nn.init.normal_(ours.gamma)  # at zero, as it starts, the gate would be a constant
    return ours, PlainGatedChannel(ours)


def _triplet() -> tuple[nn.Module, nn.Module]:
    ours = TripletAttention(SIZE[1])
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    return ours, RotatedTriplet(ours)


def _multi_scale() -> tuple[nn.Module, nn.Module]:
    ours = EfficientMultiScaleAttention(SIZE[1])
    nn.init.normal_(ours.norm.bias)
    return ours, PlainMultiScale(ours)


def _large_kernel() -> tuple[nn.Module, nn.Module]:
    ours = LargeKernelAttention(SIZE[1])
    return ours, PlainLargeKernel(ours)


def _second_order() -> tuple[nn.Module, nn.Module]:
    ours = SecondOrderPooling(SIZE[1])
    return ours, PlainSecondOrder(ours)


_NOT_SLOWER = Bounds(forward=0.98, training=0.98)

COMPARISONS = [
    Comparison(
        "coordinate attention / published formulation, 2x256x100x136",
        _pair(_coordinate_published),
        _NOT_SLOWER,
        channels_last=True,
    ),
    Comparison("coordinate attention / timm, 2x256x100x136", _pair(_coordinate_timm), channels_last=True),
    Comparison("squeeze and excitation / timm, 2x256x100x136", _pair(_se), _NOT_SLOWER, channels_last=True),
    Comparison("efficient channel attention / timm, 2x256x100x136", _pair(_eca), _NOT_SLOWER, channels_last=True),
    Comparison("CBAM / published formulation, 2x256x100x136", _pair(_cbam_published), _NOT_SLOWER, channels_last=True),
    Comparison("CBAM / timm, 2x256x100x136", _pair(_cbam_timm), Bounds(forward=0.98), channels_last=True),
    Comparison("BAM / published formulation, 2x256x100x136", _pair(_bam), _NOT_SLOWER, channels_last=True),
    Comparison("global context / timm, 2x256x100x136", _pair(_global_context), channels_last=True),
    Comparison(
        "gather-excite, windows of 15 / timm, 2x256x100x136", _pair(lambda: _gather_excite(8)), channels_last=True
    ),
    Comparison("gather-excite, global / timm, 2x256x100x136", _pair(lambda: _gather_excite(None)), channels_last=True),
    Comparison("SimAM / plain, 2x256x100x136", _pair(lambda: (SimAM(SIZE[1]), PlainSimAM())), channels_last=True),
    Comparison("gated channels / plain, 2x256x100x136", _pair(_gated_channel), channels_last=True),
    Comparison("triplet attention / rotated map, 2x256x100x136", _pair(_triplet), channels_last=True),
    Comparison("multi-scale attention / plain, 2x256x100x136", _pair(_multi_scale), channels_last=True),
    Comparison("large kernel attention / plain, 2x256x100x136", _pair(_large_kernel), channels_last=True),
    Comparison("second-order pooling / plain, 2x256x100x136", _pair(_second_order), channels_last=True),
]
