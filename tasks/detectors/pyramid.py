"""The feature pyramid between a backbone and a dense detection head."""

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from backbones import Backbone


class FeaturePyramid(nn.Module):
    """Feature Pyramid Network (Lin et al., arXiv 1612.03144) on a backbone's features of stride 8 and coarser.

    Attributes:
        out_channels: Channels of every level.
        scales: Pixels that the anchors of each level are measured in: its stride, or twice the scale of the finer level
            where dilation keeps the stride, so that every level has objects of its own.

    Args:
        backbone: Supplies `channels` and `strides`, and is told to leave out the maps that are not read.
        channels: Channels of every level.
        extra_levels: 2 adds P6 and P7, made by strided 3x3 convolutions from P5, as in RetinaNet and FCOS; 0 adds none.
    """

    def __init__(self, backbone: Backbone, channels: int = 256, extra_levels: int = 2) -> None:
        super().__init__()
        if extra_levels not in (0, 2):
            raise ValueError(f"extra_levels is {extra_levels}, expected 0, or 2 for P6 and P7")
        levels = [level for level, stride in enumerate(backbone.strides) if stride >= 8]
        if not levels:
            raise ValueError(
                f"the backbone has strides {backbone.strides}, a feature pyramid needs some of 8 and more; choose "
                "another backbone"
            )
        backbone.use_maps(levels)
        self.out_channels = channels
        self.num_levels = len(levels) + extra_levels
        self.scales: list[int] = []
        for stride in [*backbone.strides, *[0] * extra_levels]:
            self.scales.append(max(stride, 2 * self.scales[-1] if self.scales else 0))
        self.fpn = FeaturePyramidNetwork(
            list(backbone.channels),
            channels,
            extra_blocks=LastLevelP6P7(channels, channels) if extra_levels else None,
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """From the backbone's features to (B, channels, H / s, W / s) for every level, finest first."""
        named = {str(level): feature for level, feature in enumerate(features)}
        return list(self.fpn(named).values())
