"""MobileNetV2 (Sandler et al., CVPR 2018, arXiv 1801.04381) as a host of refinement operators.

The network is torchvision's and keeps torchvision's parameter names, so that torchvision's weights load; only the
attention inside the blocks is new. It sits where the authors of coordinate attention (arXiv 2103.02907) put it.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights, WeightsEnum, mobilenetv2

from attention.base import Refine, check_choice
from backbones.base import Backbone, Norms
from backbones.checkpointing import checkpointed
from backbones.conversions.mobile import (
    from_flat_mobilenet_v2,
    from_openmmlab,
    from_timm,
    is_flat_mobilenet_v2,
    is_openmmlab,
    is_timm,
    with_linear_head,
)
from backbones.dilation import Dilation, dilate_stages, set_rate
from backbones.places import (
    STAGES,
    Blocks,
    Mixers,
    Refinements,
    mix_depthwise,
    mix_expansions,
    place_between,
    places,
    refined_behind,
)
from backbones.weights import load_weights

OutputStride = Literal[8, 16, 32]

_ENDS = (3, 6, 13, 17)  # last block at strides 4, 8, 16 and 32
_ROWS = (1, 2, 4, 7, 11, 14, 17)  # first block of each row of the paper's table
_READERS = ((3, 5), (5, 8), (8, 15), (15, 18))  # blocks that read the maps of strides 4, 8, 16 and 32
_TAPPED = 14  # the block whose expansion torchvision's SSDLite reads


class _RefinedInvertedResidual(mobilenetv2.InvertedResidual):
    """An inverted residual with attention before its projection; `MobileNetV2` sets `attention`."""

    attention: nn.Module

    @property
    def expands(self) -> bool:
        """Whether the block begins with a 1x1 expansion, as all but the first do."""
        return len(self.conv) == 4

    @property
    def hidden_channels(self) -> int:
        """Channels of the depthwise convolution."""
        channels: int = self.conv[-2].in_channels
        return channels

    @property
    def depthwise(self) -> nn.Conv2d:
        """The 3x3 convolution."""
        convolution: nn.Conv2d = self.conv[-3][0]
        return convolution

    def expand(self, x: Tensor) -> Tensor:
        expanded: Tensor = self.conv[0](x) if self.expands else x
        return expanded

    def project(self, expanded: Tensor) -> Tensor:
        depthwise, projection, norm = self.conv[-3], self.conv[-2], self.conv[-1]
        projected: Tensor = norm(projection(self.attention(depthwise(expanded))))
        return projected

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.expand(x))
        return x + out if self.use_res_connect else out


class MobileNetV2(Backbone):
    """MobileNetV2 with attention in its inverted residuals.

    Features are the last block outputs at strides 4, 8, 16 and 32 (`output_stride` permitting), with 24, 32, 96 and 320
    channels at width 1. Images of every size are accepted.

    A block with expansion is x + BN(W_project A(relu6(BN(depthwise(relu6(BN(W_expand x))))))): the attention A refines
    the hidden map of 6 times the block's input channels. The first block, which does not expand, receives none
    (arXiv 2103.02907, figure 3a).

    With `output_stride` 16 or 8 the strides that are left out become dilation 2 and 4 behind them, such that dense maps
    agree with the network of stride 32 wherever that has cells. MMSegmentation's network dilates only the first block
    of each row of the paper's table, by all of the removed stride; `dilation: mmsegmentation` is for its weights.

    Parameters without classifier at width 1: 1,811,712, with `last_conv` 2,223,872, plus those of the attention.

    Args:
        width: Multiplier of all channel numbers, positive; results are rounded to multiples of 8.
        attention: Operator to insert in every block but the first, made from the number of hidden channels, or a
            list with one for each of the four stages; none gives the plain network.
        attention_stages: Stages that receive attention, numbers from 1 (stride 4) to 4 (stride 32).
        attention_blocks: Blocks of these stages that do: `every`, the `last`, a number n for every n-th, or a list of
            numbers from 1.
        attention_between: Operator behind the last block of stages, made from their channels.
        between_stages: Stages that have one, numbers from 1 to 4.
        mixer: Operator in place of the depthwise convolutions, made from channels, channels and stride, or a list with
            one for each of the four stages; none keeps the convolutions.
        mixer_stages: Stages that receive mixers, numbers from 1 to 4.
        expansion_mixer: Operator in place of the 1x1 convolutions that expand, made from channels, hidden channels and
            1, or a list with one for each of the four stages; none keeps the convolutions. Attention augmented
            convolutions (arXiv 1904.09925) stand here in mobile networks (assumption A59).
        expansion_stages: Stages whose maps such operators read, numbers from 1 to 4; of a stage these are the blocks
            behind its first one and the first one of the next stage.
        output_stride: Stride of the last feature map in pixels: 32, or 16 or 8 with dilation in place of later strides.
        dilation: `a_trous`: all that lies behind a removed stride dilates, so that dense maps agree with strided ones
            on their grid; `mmsegmentation`: as in MMSegmentation's network, for weights that were trained in it.
        last_conv: Whether to append the classification network's last 1x1 convolution; the last feature map then has
            1280 channels in place of 320.
        tap_expansion: Whether the third feature map is taken inside the next block, after its expansion (576 channels),
            as torchvision's SSDLite does, and not at the block's output (96 channels).
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1 (stride 4), up to 5,
            everything.
        norms: What the host's batch normalisations learn: `train` statistics and affine parameters, `eval` affine
            parameters only, `frozen` nothing. Those of the inserted attention always learn.
        checkpointing: Whether blocks compute their activations again in the backward pass, which saves memory.
        weights: `imagenet` for torchvision's default weights (width 1 only), or the path of a .pth, .pt or .safetensors
            file in the layout of torchvision, timm, OpenMMLab or the authors of coordinate attention; none leaves the
            random initialisation.
    """

    def __init__(
        self,
        width: float = 1.0,
        attention: Refinements = None,
        attention_stages: tuple[int, ...] = STAGES,
        attention_blocks: Blocks = "every",
        attention_between: Callable[[int], Refine] | None = None,
        between_stages: tuple[int, ...] = (1, 2, 3),
        mixer: Mixers = None,
        mixer_stages: tuple[int, ...] = STAGES,
        expansion_mixer: Mixers = None,
        expansion_stages: tuple[int, ...] = (2, 3, 4),
        output_stride: OutputStride = 32,
        dilation: Dilation = "a_trous",
        last_conv: bool = False,
        tap_expansion: bool = False,
        frozen_stages: int = 0,
        norms: Norms = "train",
        checkpointing: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if width <= 0:
            raise ValueError(f"width={width} leaves no channels; give a positive multiplier such as 1.0")
        if output_stride not in get_args(OutputStride):
            raise ValueError(f"output_stride={output_stride} is not possible; choose 8, 16 or 32")
        check_choice("dilation", dilation, get_args(Dilation))
        self.width, self.output_stride, self.dilation = width, output_stride, dilation
        self.tap_expansion = tap_expansion
        self.checkpointing = checkpointing
        host = mobilenetv2.MobileNetV2(num_classes=1, width_mult=width, block=_RefinedInvertedResidual)
        self.features: nn.Sequential = host.features if last_conv else host.features[:-1]
        if not last_conv:
            self.classifier_prefixes = (*self.classifier_prefixes, f"features.{len(self.features)}.")
        channels = [self.features[end].out_channels for end in _ENDS]
        if tap_expansion:
            channels[2] = self.features[_TAPPED].hidden_channels
        if last_conv:
            channels[3] = host.last_channel
        self.channels = tuple(channels)

        stages = [self.features[before + 1 : end + 1] for before, end in pairwise((0, *_ENDS))]
        self.strides = dilate_stages(stages, output_stride)
        if dilation == "mmsegmentation":
            self._dilate_first_blocks()
        # After the host's own initialisation, which would overwrite that of the operators.
        mix_depthwise(stages, mixer, mixer_stages)
        mix_expansions([self.features[start:end] for start, end in _READERS], expansion_mixer, expansion_stages)
        for block in self.features[1 : _ENDS[-1] + 1]:
            block.attention = nn.Identity()
        expanding = [[block for block in stage if block.expands] for stage in stages]
        for block, refine in places(expanding, attention, attention_stages, attention_blocks):
            block.attention = refine(block.hidden_channels)
        ends = [self.features[end] for end in _ENDS]
        place_between(ends, [block.out_channels for block in ends], attention_between, between_stages)
        if weights is not None:
            load_weights(self, weights)
        check_choice("norms", norms, get_args(Norms))
        self.norms = norms
        self.freeze(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x` (B, 3, H, W) at the four strides, finest first."""
        features: list[Tensor] = []
        for index, layer in enumerate(self.features):
            if self.tap_expansion and index == _TAPPED and isinstance(layer, _RefinedInvertedResidual):
                features[-1] = expanded = self._run(layer, x, layer.expand)
                x = refined_behind(layer, self._run(layer, expanded, layer.project))
            else:
                x = self._run(layer, x, layer)
            if index in _ENDS:
                features.append(x)
        features[-1] = x  # the last 1x1 convolution's output where there is one
        return features

    def _dilate_first_blocks(self) -> None:
        """Leaves dilation to the first block of each row, which there has the rate of the whole row."""
        for (before, end), stride, left in zip(pairwise((0, *_ENDS)), (4, 8, 16, 32), self.strides, strict=True):
            for index in range(before + 1, end + 1):
                block = self.features[index]
                assert isinstance(block, _RefinedInvertedResidual)
                set_rate(block.depthwise, stride // left if index in _ROWS else 1)

    def _run(self, layer: nn.Module, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """What a function of a layer returns; its intermediate results are not kept if the layer is checkpointed."""
        if self.checkpointing and isinstance(layer, _RefinedInvertedResidual):
            result: Tensor = checkpointed(layer, x, function=function)
            return result
        return function(x)

    def stages(self) -> list[list[nn.Module]]:
        """The stem convolution, then the blocks of each feature map; a last 1x1 convolution ends the last stage."""
        ends = [1, 4, 7, 14, len(self.features)]
        layers = list(self.features)
        return [layers[:1], *(layers[start:end] for start, end in pairwise(ends))]

    def unused_parts(self, maps: tuple[int, ...]) -> list[nn.Module]:
        """What stands behind the last map; of the block that a map is taken inside of, all behind its expansion."""
        parts = super().unused_parts(maps)
        tapped = self.features[_TAPPED]
        if self.tap_expansion and maps[-1] == 2 and isinstance(tapped, _RefinedInvertedResidual):
            parts = [*(part for part in parts if part is not tapped), *tapped.conv[1:], tapped.attention]
        return parts

    @property
    def label(self) -> str:
        """Name of the network without its attention."""
        return "MobileNetV2" if self.width == 1.0 else f"MobileNetV2 x{self.width:g}"

    def network_options(self) -> dict[str, object]:
        """The options that say what is computed beside the attention, as usual where they change nothing."""
        dilation = self.dilation if self.output_stride < 32 else "a_trous"
        return {"width": self.width, "output_stride": self.output_stride, "dilation": dilation}

    def published_weights(self) -> WeightsEnum | None:
        """ImageNet weights of torchvision (its default ones), which exist for width 1."""
        return MobileNet_V2_Weights.DEFAULT if self.width == 1.0 else None

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Entries of checkpoints of torchvision, timm, OpenMMLab and the coordinate attention code under our names."""
        if is_timm(state):
            state = from_timm(state, staged=False)
        elif is_openmmlab(state):
            state = from_openmmlab(state)
        elif is_flat_mobilenet_v2(state):
            state = from_flat_mobilenet_v2(state)
        return with_linear_head(state)
