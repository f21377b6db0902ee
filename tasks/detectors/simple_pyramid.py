"""The feature pyramid of backbones with a single map."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import Conv2dNormActivation
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock


class SimplePyramid(nn.Module):
    """Levels from a single map (ViTDet: Li et al., ECCV 2022, arXiv 2203.16527, section 3).

    A finer level comes from transposed 2x2 convolutions of stride 2, each with half the channels, with a normalisation
    and a GELU between two of them; a coarser one from max pooling. A 1x1 and a 3x3 convolution follow, each with a
    normalisation.

    Args:
        in_channels: Channels of the map.
        channels: Channels of every level.
        ratios: Stride of each level over that of the map: powers of two.
        extra_blocks: Makes further levels, as in torchvision's `FeaturePyramidNetwork`.
        norm: Builds a normalisation from its channels; None for layer normalisations over the channels of a cell.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        ratios: list[float],
        extra_blocks: ExtraFPNBlock | None = None,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        norm = norm or partial(LayerNorm2d, eps=1e-6)
        self.levels = nn.ModuleList()
        for ratio in ratios:
            layers: list[nn.Module] = []
            inner = in_channels
            while ratio < 1:
                layers += [norm(inner), nn.GELU()] if layers else []
                layers.append(nn.ConvTranspose2d(inner, inner // 2, 2, 2))
                inner, ratio = inner // 2, 2 * ratio
            if ratio > 1:
                layers.append(nn.MaxPool2d(int(ratio), int(ratio), ceil_mode=True))
            for before, kernel in ((inner, 1), (channels, 3)):
                layers.append(Conv2dNormActivation(before, channels, kernel, norm_layer=norm, activation_layer=None))
            self.levels.append(nn.Sequential(*layers))
        self.extra_blocks = extra_blocks

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """All levels of the one map in `features`, by name, finest first."""
        (feature,) = features.values()
        maps = [level(feature) for level in self.levels]
        names = [str(level) for level in range(len(maps))]
        if self.extra_blocks is not None:
            maps, names = self.extra_blocks(maps, [feature], names)
        return dict(zip(names, maps, strict=True))
