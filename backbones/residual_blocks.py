"""Parts of residual networks: blocks with a place for attention, the deep stem and the pooled shortcut.

The latter two are C and D of the "bag of tricks" (He et al., CVPR 2019, arXiv 1812.01187), under timm's names.
"""

from typing import Literal

from torch import Tensor, nn
from torchvision.models import resnet as torchvision_resnet

from backbones.dilation import CellMean, set_rate

Placement = Literal["standard", "pre", "inner", "post", "identity"]


class RefinedBlock(nn.Module):
    """A residual block with attention at one of five places; `ResNet` sets what is new in it.

    `mixed` is the spatial convolution that a mixer stands in for, `conv2` of a bottleneck and `conv1` of a basic block.
    """

    mixed = "conv1"

    attention: nn.Module
    placement: Placement
    conv1: nn.Module
    bn1: nn.Module
    conv2: nn.Module
    bn2: nn.Module
    relu: nn.Module
    downsample: nn.Module | None

    @property
    def spatial(self) -> list[nn.Conv2d]:
        """The convolutions larger than 1x1."""
        convolutions = [layer for layer in (self.conv1, self.conv2) if isinstance(layer, nn.Conv2d)]
        return [layer for layer in convolutions if layer.kernel_size[0] > 1]

    @property
    def out_channels(self) -> int:
        """Channels of the block's output."""
        last = self.conv3 if isinstance(self, Bottleneck) else self.conv2
        assert isinstance(last, nn.Conv2d)
        return last.out_channels

    @property
    def refined_channels(self) -> int:
        """Channels of the map that the attention at the block's place sees."""
        inner = self.conv3 if isinstance(self, Bottleneck) else self.conv2
        assert isinstance(self.conv1, nn.Conv2d) and isinstance(inner, nn.Conv2d)
        return {"pre": self.conv1.in_channels, "inner": inner.in_channels}.get(self.placement, self.out_channels)

    @property
    def strided(self) -> nn.Conv2d:
        """The convolution that has the block's stride in the network without dilation."""
        return self.spatial[0]

    def follow_mmsegmentation(self) -> None:
        """Leaves dilation to the convolution that had the stride; a pooled shortcut passes every position on."""
        for convolution in self.spatial[1:]:
            set_rate(convolution, 1)
        for pool in self.modules():
            if isinstance(pool, CellMean):
                pool.distance = 0

    def residual(self, x: Tensor) -> Tensor:
        """The residual branch, up to and including its last batch normalisation."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """A map (B, C, H, W) to one of C' channels at the block's stride."""
        branch = self.residual(self.attention(x) if self.placement == "pre" else x)
        if self.placement == "standard":
            branch = self.attention(branch)
        shortcut = x if self.downsample is None else self.downsample(x)
        if self.placement == "identity":
            shortcut = self.attention(shortcut)
        out: Tensor = self.relu(branch + shortcut)
        return self.attention(out) if self.placement == "post" else out


class BasicBlock(RefinedBlock, torchvision_resnet.BasicBlock):
    """Two 3x3 convolutions."""

    def residual(self, x: Tensor) -> Tensor:
        """The residual branch, up to and including its last batch normalisation."""
        x = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.bn2(self.conv2(self.attention(x) if self.placement == "inner" else x))
        return out


class Bottleneck(RefinedBlock, torchvision_resnet.Bottleneck):
    """A 3x3 convolution between two of 1x1."""

    mixed = "conv2"
    mixer_norm = True
    conv3: nn.Module
    bn3: nn.Module

    def residual(self, x: Tensor) -> Tensor:
        """The residual branch, up to and including its last batch normalisation."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.conv2(x)
        if self.mixer_norm:
            x = self.relu(self.bn2(x))
        out: Tensor = self.bn3(self.conv3(self.attention(x) if self.placement == "inner" else x))
        return out


def deep_stem(channels: int) -> nn.Sequential:
    """Three 3x3 convolutions, the first with stride 2, in place of one of 7x7; the last has no normalisation yet."""
    half = channels // 2
    layers: list[nn.Module] = []
    for before, stride in ((3, 2), (half, 1)):
        layers += [nn.Conv2d(before, half, 3, stride, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True)]
    stem = nn.Sequential(*layers, nn.Conv2d(half, channels, 3, 1, 1, bias=False))
    for layer in stem:
        if isinstance(layer, nn.Conv2d):  # as torchvision's ResNet initialises its convolutions
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return stem


def pooled_shortcut(shortcut: nn.Sequential) -> nn.Sequential:
    """A shortcut whose stride is a mean over 2 x 2 positions, which drops none of them, before its 1x1 convolution."""
    convolution, norm = shortcut
    assert isinstance(convolution, nn.Conv2d)
    stride, convolution.stride = convolution.stride[0], (1, 1)
    return nn.Sequential(CellMean(stride), convolution, norm)
