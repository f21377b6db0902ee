"""ResNet (He et al., CVPR 2016, arXiv 1512.03385) and ResNeXt (Xie et al., arXiv 1611.05431) as hosts of attention.

The network is torchvision's, stride 2 in the 3x3 convolutions ("v1.5"), and keeps torchvision's parameter names, so
that torchvision's weights load; only the attention is new: refinements in the blocks or between the stages, mixers in
place of 3x3 convolutions, a stem of attention. What MMSegmentation's networks have besides (deep stem, pooled
shortcuts) has timm's names.
"""

from collections.abc import Callable, Iterable
from typing import Literal, get_args

from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights, list_models
from torchvision.models import resnet as torchvision_resnet

from attention.attention_stem import AttentionStem, Values
from attention.base import Refine, check_at_least, check_choice
from backbones.base import Backbone, Norms
from backbones.checkpointing import checkpointed
from backbones.conversions.resnet import from_known_layout
from backbones.dilation import Dilation, dilate_stages, set_rate
from backbones.places import STAGES, Blocks, Mixers, Refinements, between_modules, check_stages, places
from backbones.residual_blocks import BasicBlock, Bottleneck, Placement, RefinedBlock, deep_stem, pooled_shortcut
from backbones.weights import load_weights

Depth = Literal[18, 26, 34, 38, 50, 101, 152]
OutputStride = Literal[8, 16, 32]
Stem = Literal["conv", "attention"]
Variant = Literal["v1b", "v1c", "v1d"]

_BLOCKS = {
    18: [2, 2, 2, 2],
    26: [1, 2, 4, 1],
    34: [3, 4, 6, 3],
    38: [2, 3, 5, 2],
    50: [3, 4, 6, 3],
    101: [3, 4, 23, 3],
    152: [3, 8, 36, 3],
}
_BASIC = (18, 34)
_OF_TIMM = {f"resnet{depth}c": f"resnet{depth}c.gluon_in1k" for depth in (50, 101, 152)}
_OF_TIMM |= {f"resnet{depth}d": f"resnet{depth}d.ra2_in1k" for depth in (18, 34, 50, 101, 152)}
_OF_TIMM["resnet26d"] = "resnet26d.bt_in1k"


class ResNet(Backbone):
    """ResNet or ResNeXt with attention in its residual blocks, between its stages, or in place of its convolutions.

    Features are the outputs of the four stages at strides 4, 8, 16 and 32 (`output_stride` permitting), with 256, 512,
    1024 and 2048 channels, or 64, 128, 256 and 512 for depths 18 and 34. Images of every size are accepted.

    With F the residual branch and P the projection or identity, the output of a block is, by `placement` (arXiv
    1709.01507, section 6.5; CBAM, arXiv 1807.06521, is `standard`):

        standard    relu(A(F(x)) + P(x))
        pre         relu(F(A(x)) + P(x))        A sees the channels of the block's input
        inner       relu(F(x) + P(x))           A inside of F, behind its 3x3 convolution (of a basic block the first)
        post        A(relu(F(x) + P(x)))
        identity    relu(F(x) + A(P(x)))

    A mixer stands in for the 3x3 convolution of a bottleneck, or the first of the two in a basic block, with its
    stride. Where `output_stride` removes that stride, mixers get stride 1 and keep their reach; convolutions dilate.

    MMSegmentation's networks dilate like this one from depth 50 on, but for the shortcuts of `v1d`; at depths 18 and 34
    the second convolution of a block does not dilate there. `dilation: mmsegmentation` is for weights trained so.

    Parameters without classifier (depth 50): 23,508,032, with a deep stem 23,527,264, plus those of the inserted
    attention.

    Args:
        depth: Number of weighted layers: 18, 34 (basic blocks), 26, 38, 50, 101 or 152 (bottlenecks). 26 and 38 are
            those of stand-alone self-attention (arXiv 1906.05909), [1, 2, 4, 1] and [2, 3, 5, 2] blocks.
        attention: Operator to insert in blocks of `attention_stages`, made from the number of channels it refines, or a
            list with one for each of the four stages; none gives the plain network.
        attention_stages: Stages that receive attention, numbers from 1 (stride 4) to 4 (stride 32).
        attention_blocks: Blocks of these stages that do: `every`, the `last`, a number n for every n-th, or a list of
            numbers from 1.
        placement: Place of the attention in a block: `standard` (end of the residual branch), `pre` (start of the
            residual branch), `inner` (behind the branch's 3x3 convolution, its norm and activation), `post` (after the
            addition) or `identity` (on the shortcut).
        attention_between: Operator behind the last block of stages, made from their channels (BAM).
        between_stages: Stages that have one, numbers from 1 to 4.
        mixer: Operator in place of the 3x3 convolution in blocks of `mixer_stages`, made from input channels, output
            channels and stride, or a list with one for each of the four stages; none keeps the convolutions.
        mixer_stages: Stages that receive mixers, numbers from 1 to 4.
        mixer_blocks: Blocks of these stages that do, as `attention_blocks`.
        mixer_norm: Whether batch normalisation and ReLU follow the mixer as they follow the convolution; selective
            kernels have their own inside. Bottlenecks only.
        stem: `conv` (7x7 with stride 2 and maximum pooling) or `attention` (arXiv 1906.05909, section 3.2).
        stem_values: What makes the values of a stem of attention: a `mixture` of matrices by place (the paper), one
            `pointwise` matrix, or a 4 x 4 `convolution`; see `attention.AttentionStem`.
        variant: `v1b` is torchvision's network; `v1c` has three 3x3 convolutions in place of the stem's 7x7; `v1d` also
            a mean over 2 x 2 positions in place of the shortcuts' stride (arXiv 1812.01187, C and D).
        groups: Groups of the 3x3 convolutions; ResNeXt-50 32x4d has 32. Bottlenecks only.
        width_per_group: Channels per group in stage 1; ResNet has 64, ResNeXt-50 32x4d has 4. Bottlenecks only.
        output_stride: Stride of the last feature map in pixels: 32, or 16 or 8 with dilation in place of later strides.
        dilation: `a_trous`: all that lies behind a removed stride dilates, so that dense maps agree with strided ones
            on their grid; `mmsegmentation`: as in MMSegmentation's networks, for weights that were trained in them.
        contract_dilation: Whether a block that loses its stride keeps the dilation of the blocks before it, as weights
            of the strided network need it.
        multi_grid: Factors of the last stage's dilation, one for each of its blocks, such as 1, 2, 4 (arXiv 1706.05587,
            section 3.2.1: rates 2, 4, 8 at output stride 16); with `dilation: mmsegmentation` the rates themselves.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What the host's batch normalisations learn: `train` statistics and affine parameters, `eval` affine
            parameters only, `frozen` nothing. Those of the inserted attention always learn.
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: `imagenet`, the name of torchvision's or timm's weights, or a file or address; see
            `backbones.load_weights`. None leaves the random initialisation.
    """

    def __init__(
        self,
        depth: Depth = 50,
        attention: Refinements = None,
        attention_stages: tuple[int, ...] = STAGES,
        attention_blocks: Blocks = "every",
        placement: Placement = "standard",
        attention_between: Callable[[int], Refine] | None = None,
        between_stages: tuple[int, ...] = (1, 2, 3),
        mixer: Mixers = None,
        mixer_stages: tuple[int, ...] = STAGES,
        mixer_blocks: Blocks = "every",
        mixer_norm: bool = True,
        stem: Stem = "conv",
        stem_values: Values = "mixture",
        variant: Variant = "v1b",
        groups: int = 1,
        width_per_group: int = 64,
        output_stride: OutputStride = 32,
        dilation: Dilation = "a_trous",
        contract_dilation: bool = True,
        multi_grid: tuple[int, ...] | None = None,
        frozen_stages: int = 0,
        norms: Norms = "train",
        checkpointing: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if depth not in _BLOCKS:
            raise ValueError(f"depth={depth} is not a published ResNet; choose one of {', '.join(map(str, _BLOCKS))}")
        if output_stride not in get_args(OutputStride):
            raise ValueError(f"output_stride={output_stride} is not possible; choose 8, 16 or 32")
        check_stages(attention_stages=attention_stages, between_stages=between_stages, mixer_stages=mixer_stages)
        check_choice("placement", placement, get_args(Placement))
        check_choice("stem", stem, get_args(Stem))
        check_choice("variant", variant, get_args(Variant))
        check_choice("dilation", dilation, get_args(Dilation))
        check_at_least(1, groups=groups, width_per_group=width_per_group)
        if depth in _BASIC and (groups, width_per_group) != (1, 64):
            raise ValueError(
                f"groups={groups}, width_per_group={width_per_group} need bottlenecks; choose depth 50 or 101"
            )
        if stem == "attention" and variant != "v1b":
            raise ValueError(f"variant={variant!r} has a stem of its own; choose stem='conv', or variant='v1b'")
        if multi_grid is not None and (len(multi_grid) != _BLOCKS[depth][3] or min(multi_grid) < 1):
            raise ValueError(
                f"multi_grid={tuple(multi_grid)} does not fit; give {_BLOCKS[depth][3]} numbers from 1 on, one for "
                "each block of the last stage"
            )
        self.depth, self.groups, self.width_per_group, self.variant = depth, groups, width_per_group, variant
        self.output_stride, self.dilation, self.contract_dilation = output_stride, dilation, contract_dilation
        self.multi_grid = None if multi_grid is None else tuple(multi_grid)
        self.checkpointing = checkpointing
        block = BasicBlock if depth in _BASIC else Bottleneck
        host = torchvision_resnet.ResNet(
            block, _BLOCKS[depth], num_classes=1, groups=groups, width_per_group=width_per_group
        )
        if stem == "conv":
            self.conv1: nn.Conv2d | nn.Sequential = host.conv1 if variant == "v1b" else deep_stem(64)
            self.bn1: nn.BatchNorm2d = host.bn1
            self.relu: nn.ReLU = host.relu
            self.maxpool: nn.MaxPool2d = host.maxpool
        self.stem = AttentionStem(3, 64, values=stem_values) if stem == "attention" else None
        self.layer1: nn.Sequential = host.layer1
        self.layer2: nn.Sequential = host.layer2
        self.layer3: nn.Sequential = host.layer3
        self.layer4: nn.Sequential = host.layer4
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        self.channels = tuple(64 * 2**index * block.expansion for index in range(4))

        for stage in stages if variant == "v1d" else ():
            if stage[0].downsample is not None:
                stage[0].downsample = pooled_shortcut(stage[0].downsample)
        self.strides = dilate_stages(stages, output_stride)
        self._choose_rates(stages)
        # After the host's own initialisation, which would overwrite that of the operators.
        for module in (module for stage in stages for module in stage):
            module.attention, module.placement = nn.Identity(), placement
        for module, refine in places(stages, attention, attention_stages, attention_blocks):
            module.attention = refine(module.refined_channels)
        for module, mix in places(stages, mixer, mixer_stages, mixer_blocks, "mixer"):
            conv = getattr(module, block.mixed)
            setattr(module, block.mixed, mix(conv.in_channels, conv.out_channels, conv.stride[0]))
            if not mixer_norm:
                module.mixer_norm, module.bn2 = False, nn.Identity()
        self.between = between_modules(self.channels, attention_between, between_stages)
        if weights is not None:
            load_weights(self, weights)
        check_choice("norms", norms, get_args(Norms))
        self.norms = norms
        self.freeze(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x` (B, 3, H, W) after each of the four stages, finest first."""
        x = self._embed(x)  # (B, 64, ceil(H / 4), ceil(W / 4))
        features = []
        for index, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4)):
            for block in stage:
                x = checkpointed(block, x) if self.checkpointing else block(x)
            if str(index) in self.between:
                x = self.between[str(index)](x)
            features.append(x)
        return features

    def _choose_rates(self, stages: Iterable[nn.Sequential]) -> None:
        """What the options change of dilations that keep the function of the strided network."""
        blocks = [[block for block in stage if isinstance(block, RefinedBlock)] for stage in stages]
        rates = [stride // left for stride, left in zip((4, 8, 16, 32), self.strides, strict=True)]
        exact = self.dilation == "a_trous"
        for stage, rate in zip(blocks, rates, strict=True):
            if not self.contract_dilation:
                set_rate(stage[0].strided, rate)
            for block in stage if not exact else ():
                block.follow_mmsegmentation()
        for block, factor in zip(blocks[3], self.multi_grid or (), strict=False):
            for convolution in block.spatial if exact else [block.strided]:
                set_rate(convolution, factor * (rates[3] if exact else 1))

    def _embed(self, x: Tensor) -> Tensor:
        if self.stem is not None:
            embedded: Tensor = self.stem(x)
        else:
            embedded = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return embedded

    def stages(self) -> list[list[nn.Module]]:
        """The stem, then the blocks of each stage, each with what stands behind it."""
        stem: list[nn.Module] = [self.conv1, self.bn1] if self.stem is None else [self.stem]
        stages = [list(stage) for stage in (self.layer1, self.layer2, self.layer3, self.layer4)]
        for index, operator in self.between.items():
            stages[int(index)].append(operator)
        return [stem, *stages]

    @property
    def label(self) -> str:
        """Name of the network without its attention."""
        variant = "" if self.variant == "v1b" else f" {self.variant}"
        if self.groups == 1:
            wide = "" if self.width_per_group == 64 else f" x{self.width_per_group / 64:g}"
            return f"ResNet-{self.depth}{wide}{variant}"
        return f"ResNeXt-{self.depth} {self.groups}x{self.width_per_group}d{variant}"

    def network_options(self) -> dict[str, object]:
        """The options that say what is computed beside the attention, as usual where they change nothing."""
        names = ("depth", "groups", "width_per_group", "variant", "output_stride", "multi_grid")
        dense, split = self.output_stride < 32, self.depth in _BASIC or self.variant == "v1d"
        return {
            **{name: getattr(self, name) for name in names},
            "dilation": self.dilation if self.multi_grid or (dense and split) else "a_trous",
            "contract_dilation": self.contract_dilation or not dense,
        }

    def published_weights(self) -> WeightsEnum | str | None:
        """ImageNet weights of torchvision (its default ones): version 2 from depth 50 on; timm's for other variants."""
        name = f"resnet{self.depth}"
        if self.variant != "v1b":
            plain = (self.groups, self.width_per_group) == (1, 64)
            return _OF_TIMM.get(f"{name}{self.variant[-1]}") if plain else None
        if self.groups > 1:
            name = f"resnext{self.depth}_{self.groups}x{self.width_per_group}d"
        elif self.width_per_group != 64:
            name = f"wide_resnet{self.depth}_{self.width_per_group / 64:g}"
        return get_model_weights(name).DEFAULT if name in list_models() else None

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Entries of torchvision's, timm's and the attention papers' checkpoints under this host's names."""
        return from_known_layout(state, self)
