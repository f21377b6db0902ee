"""MobileNetV1 (Howard et al., 2017, arXiv 1704.04861) as a host of refinement operators.

Attention sits behind the normalised and activated convolutions of its blocks. The sizes that the CBAM paper (arXiv
1807.06521) prints are those of attention behind the depthwise and the pointwise convolution of every block, those of
the SE paper (arXiv 1709.01507) of attention behind the pointwise one alone.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor, nn

from attention.base import Refine, check_choice
from backbones.base import Backbone, Norms
from backbones.checkpointing import checkpointed
from backbones.dilation import dilate_stages
from backbones.places import STAGES, Blocks, Mixers, Refinements, mix_depthwise, place_between, places
from backbones.weights import load_weights

OutputStride = Literal[8, 16, 32]
AttentionPlaces = Literal["both", "pointwise"]

_STEM = 32
_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
_ENDS = (3, 5, 11, 13)  # blocks up to strides 4, 8, 16 and 32


class _Separable(nn.Module):
    """A depthwise 3x3 and a 1x1 convolution, each normalised, activated and refined."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.depthwise = _convolution(in_channels, in_channels, 3, stride, groups=in_channels)
        self.depthwise_attention: nn.Module = nn.Identity()
        self.pointwise = _convolution(in_channels, out_channels, 1)
        self.pointwise_attention: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise_attention(self.depthwise(x))
        out: Tensor = self.pointwise_attention(self.pointwise(x))
        return out


class MobileNetV1(Backbone):
    """MobileNetV1 with attention in its separable convolutions.

    Features are the last block outputs at strides 4, 8, 16 and 32 (`output_stride` permitting), with 128, 256, 512 and
    1024 channels at width 1. Images of every size are accepted.

    A block is A(relu(BN(W A(relu(BN(depthwise(x))))))), with A the attention, a module of its own at each place.

    With `output_stride` 16 or 8 the strides that are left out become dilation 2 and 4 behind them, such that dense maps
    agree with the network of stride 32 wherever that has cells.

    Parameters without classifier at width 1: 3,206,976, plus those of the attention.

    Args:
        width: Multiplier of all channel numbers, positive; fractions of a channel are cut off.
        attention: Operator to insert in every block, made from the number of channels at its place, or a list with one
            for each of the four stages; none gives the plain network.
        attention_places: `both`: behind the depthwise and the pointwise convolution of a block (26 modules);
            `pointwise`: behind the pointwise one alone (13 modules).
        attention_stages: Stages that receive attention, numbers from 1 (stride 4) to 4 (stride 32).
        attention_blocks: Blocks of these stages that do: `every`, the `last`, a number n for every n-th, or a list of
            numbers from 1.
        attention_between: Operator behind the last block of stages, made from their channels.
        between_stages: Stages that have one, numbers from 1 to 4.
        mixer: Operator in place of the depthwise convolutions, made from channels, channels and stride, or a list with
            one for each of the four stages; none keeps the convolutions.
        mixer_stages: Stages that receive mixers, numbers from 1 to 4.
        output_stride: Stride of the last feature map in pixels: 32, or 16 or 8 with dilation in place of later strides.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1 (stride 4), up to 5,
            everything.
        norms: What the host's batch normalisations learn: `train` statistics and affine parameters, `eval` affine
            parameters only, `frozen` nothing. Those of the inserted attention always learn.
        checkpointing: Whether blocks compute their activations again in the backward pass, which saves memory.
        weights: Path of a .pth, .pt or .safetensors file; none leaves the random initialisation.
    """

    def __init__(
        self,
        width: float = 1.0,
        attention: Refinements = None,
        attention_places: AttentionPlaces = "both",
        attention_stages: tuple[int, ...] = STAGES,
        attention_blocks: Blocks = "every",
        attention_between: Callable[[int], Refine] | None = None,
        between_stages: tuple[int, ...] = (1, 2, 3),
        mixer: Mixers = None,
        mixer_stages: tuple[int, ...] = STAGES,
        output_stride: OutputStride = 32,
        frozen_stages: int = 0,
        norms: Norms = "train",
        checkpointing: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if width * _STEM < 1:
            raise ValueError(f"width={width} leaves no channels; give a positive multiplier such as 1.0")
        if output_stride not in get_args(OutputStride):
            raise ValueError(f"output_stride={output_stride} is not possible; choose 8, 16 or 32")
        check_choice("attention_places", attention_places, get_args(AttentionPlaces))
        check_choice("norms", norms, get_args(Norms))
        self.width = width
        self.checkpointing = checkpointing
        channels = [int(width * number) for number in (_STEM, *(number for number, _ in _BLOCKS))]
        blocks = [
            _Separable(before, after, stride)
            for (before, after), (_, stride) in zip(pairwise(channels), _BLOCKS, strict=True)
        ]
        self.stem = _convolution(3, channels[0], 3, 2)
        self.blocks = nn.Sequential(*blocks)
        self.channels = tuple(channels[end] for end in _ENDS)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

        stages = [blocks[before:end] for before, end in pairwise((0, *_ENDS))]
        self.strides = dilate_stages(stages, output_stride)
        # After the initialisation and the dilation, which are the host's.
        mix_depthwise(stages, mixer, mixer_stages)
        for block, refine in places(stages, attention, attention_stages, attention_blocks):
            if attention_places == "both":
                block.depthwise_attention = refine(block.in_channels)
            block.pointwise_attention = refine(block.out_channels)
        place_between([stage[-1] for stage in stages], self.channels, attention_between, between_stages)
        if weights is not None:
            load_weights(self, weights)
        self.norms = norms
        self.freeze(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x` (B, 3, H, W) at the four strides, finest first."""
        x = self.stem(x)
        features = []
        for number, block in enumerate(self.blocks, start=1):
            x = checkpointed(block, x) if self.checkpointing else block(x)
            if number in _ENDS:
                features.append(x)
        return features

    def stages(self) -> list[list[nn.Module]]:
        """The stem convolution, then the blocks of each feature map."""
        blocks = list(self.blocks)
        return [[self.stem], *(blocks[start:end] for start, end in pairwise((0, *_ENDS)))]

    @property
    def label(self) -> str:
        """Name of the network without its attention."""
        return "MobileNetV1" if self.width == 1.0 else f"MobileNetV1 x{self.width:g}"


def _convolution(in_channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution, its normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
