"""Channel and spatial gates beside timm's modules and the published formulations, on a map of a detector's stage."""

from collections.abc import Callable

import torch
from timm.layers import EcaModule, SEModule
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
    GlobalContext,
    SqueezeExcitation,
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
]
