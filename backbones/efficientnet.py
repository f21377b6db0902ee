"""EfficientNet (Tan and Le, ICML 2019, arXiv 1905.11946) as a host of refinement operators.

The network is torchvision's and keeps torchvision's parameter names, so that torchvision's weights load. It has
squeeze-and-excitation of its own in every block; another operator takes its place (assumption A30).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model, get_model_weights
from torchvision.models.efficientnet import MBConv
from torchvision.ops import SqueezeExcitation

from attention.base import Refine, check_choice
from backbones.base import Backbone, Norms
from backbones.checkpointing import checkpointed
from backbones.conversions.mobile import from_timm, is_timm, with_linear_head
from backbones.dilation import dilate_stages
from backbones.places import STAGES, Blocks, Mixers, Refinements, mix_depthwise, place_between, places
from backbones.weights import load_weights

Variant = Literal["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"]
OutputStride = Literal[8, 16, 32]

_ENDS = (2, 3, 5, 7)  # last torchvision stage at strides 4, 8, 16 and 32
_LAST = 8  # the last 1x1 convolution


class _Replacement(nn.Module):
    """An operator in place of squeeze-and-excitation, under a name that none of its parameters has."""

    def __init__(self, attention: Refine) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        refined: Tensor = self.attention(x)
        return refined


class EfficientNet(Backbone):
    """EfficientNet with a choice of the attention in its inverted residuals.

    Features are the last block outputs at strides 4, 8, 16 and 32 (`output_stride` permitting), of `b0` with 24, 40,
    112 and 320 channels. Images of every size are accepted.

    A block is x + BN(W_project A(silu(BN(depthwise(silu(BN(W_expand x))))))): A is the network's own
    squeeze-and-excitation, a quarter of the block's input channels wide, or what `attention` makes for the expanded
    channels.

    With `output_stride` 16 or 8 the strides that are left out become dilation 2 and 4 behind them.

    Parameters of `b0` without classifier: 3,595,388, with `last_conv` 4,007,548, of which the squeeze-and-excitation
    has 636,540.

    Args:
        variant: Size of the network, `b0` to `b7`.
        attention: Operator to put in place of squeeze-and-excitation, made from the number of expanded channels, or a
            list with one for each of the four stages; where there is none, squeeze-and-excitation stays.
        attention_stages: Stages that receive attention, numbers from 1 (stride 4) to 4 (stride 32).
        attention_blocks: Blocks of these stages that do: `every`, the `last`, a number n for every n-th, or a list of
            numbers from 1.
        attention_between: Operator behind the last block of stages, made from their channels.
        between_stages: Stages that have one, numbers from 1 to 4.
        mixer: Operator in place of the depthwise convolutions, made from channels, channels and stride, or a list with
            one for each of the four stages; none keeps the convolutions.
        mixer_stages: Stages that receive mixers, numbers from 1 to 4.
        output_stride: Stride of the last feature map in pixels: 32, or 16 or 8 with dilation in place of later strides.
        last_conv: Whether to append the classification network's last 1x1 convolution; the last feature map then has
            1280 channels (`b0`) in place of 320.
        stochastic_depth: Probability in [0, 1) of leaving out the last block in training; it rises linearly from 0 at
            the first.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1 (stride 4), up to 5,
            everything.
        norms: What the host's batch normalisations learn: `train` statistics and affine parameters, `eval` affine
            parameters only, `frozen` nothing. Those of the inserted attention always learn.
        checkpointing: Whether blocks compute their activations again in the backward pass, which saves memory.
        weights: `imagenet` for torchvision's default weights, or the path of a .pth, .pt or .safetensors file of
            torchvision's or timm's network; none leaves the random initialisation.
    """

    def __init__(
        self,
        variant: Variant = "b0",
        attention: Refinements = None,
        attention_stages: tuple[int, ...] = STAGES,
        attention_blocks: Blocks = "every",
        attention_between: Callable[[int], Refine] | None = None,
        between_stages: tuple[int, ...] = (1, 2, 3),
        mixer: Mixers = None,
        mixer_stages: tuple[int, ...] = STAGES,
        output_stride: OutputStride = 32,
        last_conv: bool = False,
        stochastic_depth: float = 0.2,
        frozen_stages: int = 0,
        norms: Norms = "train",
        checkpointing: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        check_choice("variant", variant, get_args(Variant))
        check_choice("norms", norms, get_args(Norms))
        if output_stride not in get_args(OutputStride):
            raise ValueError(f"output_stride={output_stride} is not possible; choose 8, 16 or 32")
        if not 0 <= stochastic_depth < 1:
            raise ValueError(f"stochastic_depth={stochastic_depth} is no probability in [0, 1); give one such as 0.2")
        self.variant = variant
        self.checkpointing = checkpointing
        host = get_model(f"efficientnet_{variant}", num_classes=1, stochastic_depth_prob=stochastic_depth)
        self.features: nn.Sequential = host.features if last_conv else host.features[:_LAST]
        if not last_conv:
            self.classifier_prefixes = (*self.classifier_prefixes, f"features.{_LAST}.")
        channels = [self.features[end][-1].out_channels for end in _ENDS]
        if last_conv:
            channels[-1] = self.features[_LAST].out_channels
        self.channels = tuple(channels)

        groups = [self.features[before + 1 : end + 1] for before, end in pairwise((0, *_ENDS))]
        self.strides = dilate_stages(groups, output_stride)
        # After the host's own initialisation and the dilation.
        stages = [[block for row in group for block in row.children()] for group in groups]
        mix_depthwise(stages, mixer, mixer_stages)
        for block, refine in places(stages, attention, attention_stages, attention_blocks):
            _replace(block, refine)
        ends = [stage[-1] for stage in stages]
        place_between(ends, [block.out_channels for block in ends], attention_between, between_stages)
        if weights is not None:
            load_weights(self, weights)
        self.norms = norms
        self.freeze(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x` (B, 3, H, W) at the four strides, finest first."""
        x = self.features[0](x)
        features = []
        for index, stage in enumerate(self.features[1:_LAST], start=1):
            for block in stage.children():
                x = checkpointed(block, x) if self.checkpointing else block(x)
            if index in _ENDS:
                features.append(x)
        for last_conv in self.features[_LAST:]:
            features[-1] = last_conv(x)
        return features

    def stages(self) -> list[list[nn.Module]]:
        """The stem convolution, then the blocks of each feature map; a last 1x1 convolution ends the last stage."""
        stages = [
            [block for stage in self.features[start + 1 : end + 1] for block in stage.children()]
            for start, end in pairwise((0, *_ENDS))
        ]
        stages[-1] += list(self.features[_LAST:])
        return [[self.features[0]], *stages]

    @property
    def label(self) -> str:
        """Name of the network without its attention."""
        return f"EfficientNet-{self.variant.upper()}"

    def published_weights(self) -> WeightsEnum:
        """ImageNet weights of torchvision (its default ones) for this size."""
        return get_model_weights(f"efficientnet_{self.variant}").DEFAULT

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Entries of torchvision's or timm's checkpoints under our names."""
        return with_linear_head(from_timm(state, staged=True) if is_timm(state) else state)


def _replace(block: MBConv, attention: Callable[[int], Refine]) -> None:
    """Puts an operator in the place of a block's squeeze-and-excitation."""
    (position,) = (index for index, layer in enumerate(block.block) if isinstance(layer, SqueezeExcitation))
    block.block[position] = _Replacement(attention(block.block[position].fc1.in_channels))
