"""The feature pyramid between a backbone and a detection head."""

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from attention.base import Refine, check_choice
from backbones import Backbone
from tasks.detectors.head_operators import Mixing, mix_convolutions
from tasks.detectors.simple_pyramid import SimplePyramid
from tasks.ranges import check_range

ExtraLevels = Literal["p6p7_from_p5", "p6p7_from_c5", "max_pool"]
_SIMPLE_COARSEST = 32  # stride of the coarsest level that is made of the single map itself


class FeaturePyramid(nn.Module):
    """Maps of equal channels, one for every octave from `finest_stride` to `coarsest_stride`.

    On a backbone's maps within these bounds stands a Feature Pyramid Network (Lin et al., arXiv 1612.03144); levels
    finer than the backbone's maps are not made. A backbone with a single map gets a `SimplePyramid`, whose levels from
    `finest_stride` to stride 32 are all made of this map. Coarser levels follow from the coarsest of these.

    Attributes:
        out_channels: Channels of every level.
        num_levels: Number of levels.
        scales: Pixels that the anchors of each level are measured in: its stride, or twice the scale of the finer level
            where dilation keeps the stride, so that every level has objects of its own.

    Args:
        backbone: Supplies `channels` and `strides`, and is told to leave out the maps that are not read.
        channels: Channels of every level.
        finest_stride: Stride of the finest level in pixels.
        coarsest_stride: Scale of the coarsest level in pixels.
        extra: How levels coarser than the backbone's maps are made: by strided 3x3 convolutions that begin at the
            coarsest level (`p6p7_from_p5`) or at the backbone's coarsest map (`p6p7_from_c5`), with a ReLU between, as
            in RetinaNet and FCOS; or by taking every second cell of the coarsest level (`max_pool`).
        simple: Whether the backbone's coarsest map alone is used, as where it has no other.
        norm: Builds the normalisation behind every convolution of the pyramid from its channels. None for none in the
            Feature Pyramid Network and layer normalisations in the simple pyramid.
        mixer: Operator in place of its 3x3 convolutions, made from input channels, output channels and stride.
        attention: Refinement of every level, a module of its own each, made from `channels`.
    """

    def __init__(
        self,
        backbone: Backbone,
        channels: int = 256,
        finest_stride: int = 8,
        coarsest_stride: int = 128,
        extra: ExtraLevels = "p6p7_from_p5",
        simple: bool = False,
        norm: Callable[[int], nn.Module] | None = None,
        mixer: Mixing | None = None,
        attention: Callable[[int], Refine] | None = None,
    ) -> None:
        super().__init__()
        check_choice("extra", extra, get_args(ExtraLevels))
        check_range("channels", channels, 1)
        for name, stride in (("finest_stride", finest_stride), ("coarsest_stride", coarsest_stride)):
            if stride < 1 or stride & (stride - 1):
                raise ValueError(f"{name} is {stride}, expected a power of two such as 8 or 128")
        self.simple = simple or len(backbone.strides) == 1
        if self.simple:
            backbone.use_maps([-1])
            self.scales = _octaves(backbone.strides[0], finest_stride, min(coarsest_stride, _SIMPLE_COARSEST))
        else:
            self.scales = _use_maps_between(backbone, finest_stride, coarsest_stride)
        if not self.scales:
            raise ValueError(
                f"the backbone has strides {backbone.strides}, a feature pyramid needs some of {finest_stride} to "
                f"{coarsest_stride}; choose another backbone, or other finest_stride and coarsest_stride"
            )
        if self.simple and extra == "p6p7_from_c5" and backbone.strides[0] != self.scales[-1]:
            raise ValueError("extra=p6p7_from_c5 needs a backbone with a map of stride 32; choose p6p7_from_p5")
        made = len(self.scales)
        while 2 * self.scales[-1] <= coarsest_stride:
            self.scales.append(2 * self.scales[-1])
        self.out_channels = channels
        self.num_levels = len(self.scales)
        extra_levels: ExtraFPNBlock | None = None
        if self.num_levels > made and extra == "max_pool":
            extra_levels = _PooledLevels(self.num_levels - made)
        elif self.num_levels > made:
            c5_channels = backbone.channels[-1] if extra == "p6p7_from_c5" else None
            extra_levels = _ConvolvedLevels(self.num_levels - made, channels, c5_channels)
        self.fpn: nn.Module
        if self.simple:
            ratios = [scale / backbone.strides[0] for scale in self.scales[:made]]
            self.fpn = SimplePyramid(backbone.channels[0], channels, ratios, extra_levels, norm)
        else:
            self.fpn = FeaturePyramidNetwork(list(backbone.channels), channels, extra_levels, norm)
        if mixer is not None:
            mix_convolutions(self.fpn, mixer)
        refined = range(self.num_levels) if attention is not None else ()
        self.refine = nn.ModuleList(attention(channels) for _ in refined if attention is not None)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """From the backbone's features to (B, channels, H / s, W / s) for every level, finest first."""
        named = {str(level): feature for level, feature in enumerate(features)}
        levels = list(self.fpn(named).values())
        return [refine(level) for refine, level in zip(self.refine, levels, strict=True)] if self.refine else levels


class _ConvolvedLevels(ExtraFPNBlock):
    """Levels by strided 3x3 convolutions, called P6, P7 and so on as torchvision's `LastLevelP6P7` has them.

    Args:
        count: Number of levels.
        channels: Channels of every level.
        c5_channels: Channels of the backbone's coarsest map, from which they are made; None to make them from the
            coarsest level.
    """

    def __init__(self, count: int, channels: int, c5_channels: int | None) -> None:
        super().__init__()
        self.from_c5 = c5_channels is not None
        for level in range(count):
            before = c5_channels if level == 0 and c5_channels is not None else channels
            self.add_module(f"p{6 + level}", nn.Conv2d(before, channels, 3, 2, 1))
        for conv in self.children():
            if isinstance(conv, nn.Conv2d) and conv.bias is not None:
                nn.init.kaiming_uniform_(conv.weight, a=1)
                nn.init.zeros_(conv.bias)

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Appends the levels, and their names."""
        last = x[-1] if self.from_c5 else results[-1]
        for number, (name, conv) in enumerate(self.named_children()):  # mixers, where they took the convolutions' place
            last = conv(functional.relu(last) if number else last)
            results.append(last)
            names.append(name)
        return results, names


class _PooledLevels(ExtraFPNBlock):
    """Levels of every second cell of the level before, as torchvision's `LastLevelMaxPool` makes one.

    Args:
        count: Number of levels.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Appends the levels, and their names."""
        for number in range(self.count):
            results.append(functional.max_pool2d(results[-1], 1, 2))
            names.append(f"pool{number or ''}")
        return results, names


def _octaves(stride: int, finest: int, coarsest: int) -> list[int]:
    """Strides that are `stride` times or divided by powers of two, from `finest` to `coarsest`."""
    while stride >= 2 * finest and stride % 2 == 0:
        stride //= 2
    while stride < finest:
        stride *= 2
    found = []
    while stride <= coarsest:
        found.append(stride)
        stride *= 2
    return found


def _use_maps_between(backbone: Backbone, finest: int, coarsest: int) -> list[int]:
    """Tells a backbone which of its maps are read, and returns their scales; none where there are no such maps."""
    levels: list[int] = []
    scales: list[int] = []
    for level, stride in enumerate(backbone.strides):
        scale = max(stride, 2 * scales[-1] if scales else 0)
        if stride >= finest and scale <= coarsest:
            levels.append(level)
            scales.append(scale)
    if levels:
        backbone.use_maps(levels)
    return scales
