"""ResNet (He et al., CVPR 2016, arXiv 1512.03385) as a host of refinement operators.

The network is torchvision's, stride 2 in the 3x3 convolutions ("v1.5"), and keeps torchvision's parameter names, so
that torchvision's weights load; only the attention inside the blocks is new.
"""

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights
from torchvision.models import resnet as torchvision_resnet

from attention.base import Refine, check_choice
from backbones.base import Backbone, Norms
from backbones.dilation import dilate
from backbones.weights import load_weights

Depth = Literal[18, 34, 50, 101, 152]
Placement = Literal["standard", "pre", "post", "identity"]
OutputStride = Literal[8, 16, 32]

_BLOCKS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}


class _RefinedBlock(nn.Module):
    """A residual block with attention at one of four places; `ResNet` sets `attention` and `placement`."""

    attention: nn.Module
    placement: Placement
    conv1: nn.Module
    bn1: nn.Module
    conv2: nn.Module
    bn2: nn.Module
    relu: nn.Module
    downsample: nn.Module | None

    def residual(self, x: Tensor) -> Tensor:
        """The residual branch, up to and including its last batch normalisation."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        branch = self.residual(self.attention(x) if self.placement == "pre" else x)
        if self.placement == "standard":
            branch = self.attention(branch)
        shortcut = x if self.downsample is None else self.downsample(x)
        if self.placement == "identity":
            shortcut = self.attention(shortcut)
        out: Tensor = self.relu(branch + shortcut)
        return self.attention(out) if self.placement == "post" else out


class _BasicBlock(_RefinedBlock, torchvision_resnet.BasicBlock):
    def residual(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.bn2(self.conv2(x))
        return out


class _Bottleneck(_RefinedBlock, torchvision_resnet.Bottleneck):
    conv3: nn.Module
    bn3: nn.Module

    def residual(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        out: Tensor = self.bn3(self.conv3(x))
        return out


class ResNet(Backbone):
    """ResNet with attention in its residual blocks.

    Features are the outputs of the four stages at strides 4, 8, 16 and 32 (`output_stride` permitting), with 256, 512,
    1024 and 2048 channels, or 64, 128, 256 and 512 for depths 18 and 34. Images of every size are accepted.

    With F the residual branch and P the projection or identity, the output of a block is, by `placement` (arXiv
    1709.01507, section 6.5; CBAM, arXiv 1807.06521, is `standard`):

        standard    relu(A(F(x)) + P(x))
        pre         relu(F(A(x)) + P(x))        A sees the channels of the block's input
        post        A(relu(F(x) + P(x)))
        identity    relu(F(x) + A(P(x)))

    Parameters without classifier (depth 50): 23,508,032, plus those of the inserted attention.

    Args:
        depth: Number of weighted layers: 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        attention: Operator to insert in every block of `attention_stages`, made from the number of channels it refines;
            none gives the plain network.
        attention_stages: Stages that receive attention, numbers from 1 (stride 4) to 4 (stride 32).
        placement: Place of the attention in a block: `standard` (end of the residual branch), `pre` (start of the
            residual branch), `post` (after the addition) or `identity` (on the shortcut).
        output_stride: Stride of the last feature map in pixels: 32, or 16 or 8 with dilation in place of later strides.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What the host's batch normalisations learn: `train` statistics and affine parameters, `eval` affine
            parameters only, `frozen` nothing. Those of the inserted attention always learn.
        weights: `imagenet` for torchvision's default weights, or the path of a .pth, .pt or .safetensors file; none
            leaves the random initialisation.
    """

    def __init__(
        self,
        depth: Depth = 50,
        attention: Callable[[int], Refine] | None = None,
        attention_stages: tuple[int, ...] = (1, 2, 3, 4),
        placement: Placement = "standard",
        output_stride: OutputStride = 32,
        frozen_stages: int = 0,
        norms: Norms = "train",
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if depth not in _BLOCKS:
            raise ValueError(f"depth={depth} is not a published ResNet; choose one of {', '.join(map(str, _BLOCKS))}")
        if output_stride not in get_args(OutputStride):
            raise ValueError(f"output_stride={output_stride} is not possible; choose 8, 16 or 32")
        if not set(attention_stages) <= {1, 2, 3, 4}:
            raise ValueError(f"attention_stages={tuple(attention_stages)} has no such stages; choose from 1, 2, 3, 4")
        check_choice("placement", placement, get_args(Placement))
        self.depth = depth
        block = _Bottleneck if depth >= 50 else _BasicBlock
        host = torchvision_resnet.ResNet(block, _BLOCKS[depth], num_classes=1)
        self.conv1: nn.Conv2d = host.conv1
        self.bn1: nn.BatchNorm2d = host.bn1
        self.relu: nn.ReLU = host.relu
        self.maxpool: nn.MaxPool2d = host.maxpool
        self.layer1: nn.Sequential = host.layer1
        self.layer2: nn.Sequential = host.layer2
        self.layer3: nn.Sequential = host.layer3
        self.layer4: nn.Sequential = host.layer4
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        self.channels = tuple(64 * 2**index * block.expansion for index in range(4))
        self.strides = tuple(min(stride, output_stride) for stride in (4, 8, 16, 32))

        rate = 1
        for stage, stride in zip(stages, (4, 8, 16, 32), strict=True):
            if stride > output_stride:
                rate = dilate(stage, rate)
        # After the host's own initialisation, which would overwrite that of the operators.
        for number, (stage, channels) in enumerate(zip(stages, self.channels, strict=True), start=1):
            factory = attention if number in attention_stages else None
            for module in stage:
                seen = module.conv1.in_channels if placement == "pre" else channels
                module.attention = nn.Identity() if factory is None else factory(seen)
                module.placement = placement
        if weights is not None:
            load_weights(self, weights)
        check_choice("norms", norms, get_args(Norms))
        self.norms = norms
        self.freeze(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x` (B, 3, H, W) after each of the four stages, finest first."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (B, 64, ceil(H / 4), ceil(W / 4))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features

    def stages(self) -> list[list[nn.Module]]:
        """The stem, then the blocks of each stage."""
        return [[self.conv1, self.bn1], *(list(s) for s in (self.layer1, self.layer2, self.layer3, self.layer4))]

    @property
    def label(self) -> str:
        """Name of the network without its attention."""
        return f"ResNet-{self.depth}"

    def published_weights(self) -> WeightsEnum:
        """ImageNet weights of torchvision (its default ones) for this depth: version 2 from depth 50 on."""
        return get_model_weights(f"resnet{self.depth}").DEFAULT
