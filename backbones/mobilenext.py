"""MobileNeXt (Zhou et al., ECCV 2020, arXiv 2007.02269) as a host of refinement operators.

The network is that of the authors' code, under its parameter names, so that its weights load; only the attention inside
the blocks is new. The authors of coordinate attention (arXiv 2103.02907) put it behind the first depthwise convolution
(assumption A29).
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor, nn

from attention.base import Refine, check_choice
from backbones.base import Backbone, Norms
from backbones.checkpointing import checkpointed
from backbones.conversions.mobile import with_linear_head
from backbones.dilation import dilate_stages
from backbones.places import STAGES, Blocks, Mixers, Refinements, mix_depthwise, place_between, places, refined_behind
from backbones.weights import load_weights

OutputStride = Literal[8, 16, 32]
AttentionPosition = Literal["first", "first_any", "last", "identity", "output"]

# Reduction of the bottleneck, output channels, blocks, stride of the first of them.
_ROWS = (
    (2, 96, 1, 2),
    (6, 144, 1, 1),
    (6, 192, 3, 2),
    (6, 288, 3, 2),
    (6, 384, 4, 1),
    (6, 576, 4, 2),
    (6, 960, 3, 1),
    (6, 1280, 1, 1),
)
_ENDS = (2, 5, 12, 20)  # last block at strides 4, 8, 16 and 32
_TAPPED = (13, 20)  # blocks whose expansion the authors' SSDLite reads
_LEAST_BOTTLENECK = 6  # a bottleneck has no fewer channels than one sixth of the block's output


class _Sandglass(nn.Module):
    """Two linear 1x1 convolutions around a bottleneck, with depthwise convolutions before and behind them.

    Args:
        in_channels: Channels of the input.
        bottleneck: Channels between the two 1x1 convolutions.
        out_channels: Channels of the output.
        stride: Stride of the last depthwise convolution.
        first: Whether a depthwise convolution comes first.
        last: Whether a depthwise convolution comes last.
        residual: Whether the input is added to the output.
    """

    attention: nn.Module

    def __init__(
        self, in_channels: int, bottleneck: int, out_channels: int, stride: int, first: bool, last: bool, residual: bool
    ) -> None:
        super().__init__()
        layers = [*_depthwise(in_channels, 1), nn.ReLU6(inplace=True)] if first else []
        layers += [*_pointwise(in_channels, bottleneck)]
        layers += [*_pointwise(bottleneck, out_channels), nn.ReLU6(inplace=True)]
        layers += _depthwise(out_channels, stride) if last else []
        self.conv = nn.Sequential(*layers)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.first = first
        self.last = last
        self.residual = residual
        self.layers_before_attention = 0
        self.attention = nn.Identity()

    def place(self, attention: Callable[[int], Refine], position: AttentionPosition) -> None:
        """Inserts attention at a position that `MobileNeXt` describes, if this block has it."""
        behind_first, behind_last, behind_addition = 3, len(self.conv), len(self.conv) + 1
        after = {
            "first": behind_first if self.first else 0,
            "first_any": behind_first if self.first else behind_last if self.last else 0,
            "last": behind_last if self.last else 0,
            "identity": behind_first if self.residual else 0,
            "output": behind_addition,
        }[position]
        if after:
            self.layers_before_attention = after
            self.attention = attention(self.in_channels if after == behind_first else self.out_channels)

    @property
    def expanded(self) -> int:
        """Number of layers up to the second 1x1 convolution, its normalisation and activation included."""
        return len(self.conv) - 2 * self.last

    def run(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Layers `start` to `stop` - 1, and the attention behind them."""
        for number, layer in enumerate([*self.conv][start:stop], start=start + 1):
            x = layer(x)
            if number == self.layers_before_attention:
                x = self.attention(x)
        return x

    def expand(self, x: Tensor) -> Tensor:
        """What the last depthwise convolution of a block sees."""
        return self.run(x, 0, self.expanded)

    def shrink(self, expanded: Tensor) -> Tensor:
        """From `expand` to the output of a block without a residual."""
        out = self.run(expanded, self.expanded, len(self.conv))
        return self.attention(out) if self.layers_before_attention > len(self.conv) else out

    def forward(self, x: Tensor) -> Tensor:
        out = self.run(x, 0, len(self.conv))
        out = x + out if self.residual else out
        return self.attention(out) if self.layers_before_attention > len(self.conv) else out


class MobileNeXt(Backbone):
    """MobileNeXt with attention in its sandglass blocks.

    Features are the last block outputs at strides 4, 8, 16 and 32 (`output_stride` permitting), with 144, 192, 384 and
    1280 channels at width 1. Images of every size are accepted.

    Most blocks are x + BN(depthwise(relu6(BN(W_expand BN(W_reduce A(relu6(BN(depthwise(x))))))))), A the attention.
    Blocks that change the number of channels have no addition and, but for the first, second and last, no first
    depthwise convolution; those of stride 1 (9 and 17) have no depthwise convolution at all.

    The paper is at odds with itself about coordinate attention: figure 3(b) of arXiv 2103.02907 shows `first`, but its
    4.09 M parameters are those of `last`. Neither code nor weights of that network were released.

    With `output_stride` 16 or 8 the strides that are left out become dilation 2 and 4 behind them, such that dense maps
    agree with the network of stride 32 wherever that has cells.

    Parameters without classifier at width 1: 2,254,416, plus those of the attention.

    Args:
        width: Multiplier of all channel numbers, positive; results are rounded to multiples of 8. The last block keeps
            1280 channels below width 1.
        attention: Operator to insert, made from the number of channels at its position, or a list with one for each of
            the four stages; none gives the plain network.
        attention_position: `first`: behind the first depthwise convolution of the 15 blocks that begin with one;
            `first_any`: the same, and behind the only depthwise convolution of 3 further blocks; `last`: behind the
            last depthwise convolution of the 18 blocks that end with one, before the addition; `identity`: as `first`,
            in the 12 blocks with an addition; `output`: behind all 20 blocks.
        attention_stages: Stages that receive attention, numbers from 1 (stride 4) to 4 (stride 32).
        attention_blocks: Blocks of these stages that do: `every`, the `last`, a number n for every n-th, or a list of
            numbers from 1.
        attention_between: Operator behind the last block of stages, made from their channels.
        between_stages: Stages that have one, numbers from 1 to 4.
        mixer: Operator in place of the depthwise convolutions, made from channels, channels and stride, or a list with
            one for each of the four stages; none keeps the convolutions.
        mixer_stages: Stages that receive mixers, numbers from 1 to 4.
        output_stride: Stride of the last feature map in pixels: 32, or 16 or 8 with dilation in place of later strides.
        tap_expansion: Whether the third feature map is taken inside block 13, before its last depthwise convolution
            (576 channels), and a map in the same place of block 20 (1280 channels) comes between it and the last, as
            SSDLite of the authors reads them.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1 (stride 4), up to 5,
            everything.
        norms: What the host's batch normalisations learn: `train` statistics and affine parameters, `eval` affine
            parameters only, `frozen` nothing. Those of the inserted attention always learn.
        checkpointing: Whether blocks compute their activations again in the backward pass, which saves memory.
        weights: Path of a .pth, .pt or .safetensors file, also of the authors' code; none leaves the random
            initialisation.
    """

    def __init__(
        self,
        width: float = 1.0,
        attention: Refinements = None,
        attention_position: AttentionPosition = "first",
        attention_stages: tuple[int, ...] = STAGES,
        attention_blocks: Blocks = "every",
        attention_between: Callable[[int], Refine] | None = None,
        between_stages: tuple[int, ...] = (1, 2, 3),
        mixer: Mixers = None,
        mixer_stages: tuple[int, ...] = STAGES,
        output_stride: OutputStride = 32,
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
        check_choice("attention_position", attention_position, get_args(AttentionPosition))
        check_choice("norms", norms, get_args(Norms))
        self.width = width
        self.tap_expansion = tap_expansion
        self.checkpointing = checkpointing
        stem = _divisible(32 * width, 8)
        blocks = _blocks(stem, width)
        self.features = nn.Sequential(
            nn.Sequential(
                nn.Conv2d(3, stem, 3, 2, 1, bias=False),
                nn.BatchNorm2d(stem),
                nn.ReLU6(inplace=True),
            ),
            *blocks,
        )
        self.channels = tuple(blocks[end - 1].out_channels for end in _ENDS)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

        stages = [blocks[before:end] for before, end in pairwise((0, *_ENDS))]
        self.strides = dilate_stages(stages, output_stride)
        ends = [stage[-1] for stage in stages]
        if tap_expansion:
            *finer, last = self.channels
            self.channels = (*finer[:2], *(blocks[number - 1].out_channels for number in _TAPPED), last)
            self.strides = (*self.strides, self.strides[-1])
        # After the initialisation and the dilation, which are the host's.
        mix_depthwise(stages, mixer, mixer_stages)
        for block, refine in places(stages, attention, attention_stages, attention_blocks):
            block.place(refine, attention_position)
        place_between(ends, [block.out_channels for block in ends], attention_between, between_stages)
        if weights is not None:
            load_weights(self, weights)
        self.norms = norms
        self.freeze(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x` (B, 3, H, W) at the four strides, finest first."""
        features: list[Tensor] = []
        for index, layer in enumerate(self.features):
            if self.tap_expansion and index in _TAPPED and isinstance(layer, _Sandglass):
                expanded = self._run(layer, x, layer.expand)
                if index - 1 in _ENDS:
                    features.pop()  # its place is taken
                features.append(expanded)
                x = refined_behind(layer, self._run(layer, expanded, layer.shrink))
            else:
                x = self._run(layer, x, layer)
            if index in _ENDS:
                features.append(x)
        return features

    def _run(self, layer: nn.Module, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """What a function of a layer returns; its intermediate results are not kept if the layer is checkpointed."""
        if self.checkpointing and isinstance(layer, _Sandglass):
            result: Tensor = checkpointed(layer, x, function=function)
            return result
        return function(x)

    def unused_parts(self, maps: tuple[int, ...]) -> list[nn.Module]:
        """What stands behind the last map; of a block that it is taken inside of, all behind its expansion."""
        if not self.tap_expansion:
            return super().unused_parts(maps)
        if maps[-1] > 3:
            return []
        end = (_ENDS[0], _ENDS[1], *_TAPPED)[maps[-1]]
        block = self.features[end]
        behind: list[nn.Module] = [*self.features[end + 1 :]]
        if end in _TAPPED and isinstance(block, _Sandglass):
            behind += block.conv[block.expanded :]
            if block.layers_before_attention > block.expanded:
                behind.append(block.attention)
            behind += [part for name, part in block.named_children() if name == "between"]
        return behind

    def stages(self) -> list[list[nn.Module]]:
        """The stem convolution, then the blocks of each feature map."""
        layers = list(self.features)
        return [layers[start:end] for start, end in pairwise((0, 1, *(end + 1 for end in _ENDS)))]

    @property
    def label(self) -> str:
        """Name of the network without its attention."""
        return "MobileNeXt" if self.width == 1.0 else f"MobileNeXt x{self.width:g}"

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Entries of the authors' checkpoints, whose only other name is that of the classifier."""
        return with_linear_head(state)


def _blocks(channels: int, width: float) -> list[_Sandglass]:
    """The 20 blocks of a network of a given width, behind a stem of `channels` channels."""
    blocks = []
    for reduction, published, count, row_stride in _ROWS:
        row_channels = 1280 if published == 1280 and width < 1 else _divisible(published * width, 8)
        alone = count == 1 and row_stride == 1
        for index in range(count):
            stride = row_stride if index == 0 else 1
            keeps = channels == row_channels and stride == 1
            first = reduction == 2 or alone or keeps
            blocks.append(
                _Sandglass(
                    channels,
                    _bottleneck(channels, row_channels, reduction),
                    row_channels,
                    stride,
                    first=first,
                    last=first or stride == 2,
                    residual=first and reduction != 2 and not alone,
                )
            )
            channels = row_channels
    return blocks


def _bottleneck(in_channels: int, out_channels: int, reduction: int) -> int:
    """Channels between the two 1x1 convolutions of a block."""
    channels = in_channels // reduction
    if channels * _LEAST_BOTTLENECK >= out_channels:
        return channels
    return _divisible(math.ceil(out_channels / _LEAST_BOTTLENECK), 16)


def _divisible(channels: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to `channels` that loses no more than a tenth of them."""
    nearest = max(divisor, math.floor(channels / divisor + 0.5) * divisor)
    return nearest if nearest >= 0.9 * channels else nearest + divisor


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    """A depthwise 3x3 convolution and its normalisation."""
    return [nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False), nn.BatchNorm2d(channels)]


def _pointwise(in_channels: int, out_channels: int) -> list[nn.Module]:
    """A 1x1 convolution and its normalisation."""
    return [nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
