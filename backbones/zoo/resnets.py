"""Residual networks of the attention papers: SE, SK, CBAM, BAM, attention augmentation, stand-alone self-attention."""

from functools import partial
from typing import Any

from attention.attention_augmented import AttentionAugmentedConv2d
from attention.bam import BAM
from attention.cbam import CBAM
from attention.halo import HaloAttention
from attention.selective_kernel import SelectiveKernel
from attention.spatial import SpatialAttention
from attention.squeeze_excitation import SqueezeExcitation
from attention.stand_alone import StandAloneSelfAttention
from backbones.resnet import ResNet, Stem
from backbones.zoo.registry import zoo_entry


@zoo_entry()
def resnet50(**options: Any) -> ResNet:
    """ResNet-50 v1.5 (arXiv 1512.03385), stride 2 in the 3x3 convolutions; torchvision's weights have 80.86 % top-1."""
    return ResNet(50, **options)


@zoo_entry()
def se_resnet50(**options: Any) -> ResNet:
    """SE-ResNet-50 v1.5 (arXiv 1709.01507): SqueezeExcitation, reduction 16, at the end of every residual branch."""
    return ResNet(50, SqueezeExcitation, **options)


@zoo_entry()
def se_resnext50_32x4d(**options: Any) -> ResNet:
    """SE-ResNeXt-50 32x4d (arXiv 1709.01507)."""
    return ResNet(50, SqueezeExcitation, groups=32, width_per_group=4, **options)


@zoo_entry()
def sknet50(**options: Any) -> ResNet:
    """SKNet-50 (arXiv 1903.06586): ResNeXt-50 32x4d with SelectiveKernel in place of every 3x3 convolution."""
    return ResNet(50, mixer=SelectiveKernel, mixer_norm=False, groups=32, width_per_group=4, **options)


@zoo_entry()
def cbam_resnet50(**options: Any) -> ResNet:
    """ResNet-50 with CBAM (arXiv 1807.06521), reduction 16; the authors' checkpoint reaches 77.62 % top-1."""
    return ResNet(50, CBAM, **options)


@zoo_entry()
def spatial_resnet50(**options: Any) -> ResNet:
    """ResNet-50 with CBAM's spatial attention alone (arXiv 1807.06521)."""
    return ResNet(50, SpatialAttention, **options)


@zoo_entry()
def bam_resnet50(**options: Any) -> ResNet:
    """ResNet-50 with BAM behind stages 1 to 3 (arXiv 1807.06514); the authors' checkpoint reaches 76.86 % top-1."""
    return ResNet(50, attention_between=BAM, **options)


def _augmented(
    in_channels: int, out_channels: int, stride: int, kappa: float = 0.2, upsilon: float = 0.1
) -> AttentionAugmentedConv2d:
    """Attention grids of 14 x 14 at 224 x 224 pixels in stages 2 (pooled once more) and 3, of 7 x 7 in stage 4."""
    side = 7 if out_channels == 512 else 14
    grid, pooled = (side, side), out_channels == 128
    return AttentionAugmentedConv2d(
        in_channels, out_channels, stride, kappa=kappa, upsilon=upsilon, grid=grid, pooled=pooled
    )


@zoo_entry()
def aa_resnet34(**options: Any) -> ResNet:
    """AA-ResNet-34 (arXiv 1904.09925): the first convolutions of blocks in stages 2 to 4, ratios 1 / 4."""
    mixer = partial(_augmented, kappa=0.25, upsilon=0.25)
    return ResNet(34, mixer=mixer, mixer_stages=(2, 3, 4), **options)


@zoo_entry()
def aa_resnet50(**options: Any) -> ResNet:
    """AA-ResNet-50 (arXiv 1904.09925): convolution augmented by attention in the bottlenecks of stages 2 to 4."""
    return ResNet(50, mixer=_augmented, mixer_stages=(2, 3, 4), **options)


@zoo_entry()
def aa_resnet101(**options: Any) -> ResNet:
    """AA-ResNet-101 (arXiv 1904.09925): convolution augmented by attention in the bottlenecks of stages 2 to 4."""
    return ResNet(101, mixer=_augmented, mixer_stages=(2, 3, 4), **options)


@zoo_entry()
def aa_resnet152(**options: Any) -> ResNet:
    """AA-ResNet-152 (arXiv 1904.09925): convolution augmented by attention in the bottlenecks of stages 2 to 4."""
    return ResNet(152, mixer=_augmented, mixer_stages=(2, 3, 4), **options)


@zoo_entry()
def sasa_resnet26(stem: Stem = "conv", **options: Any) -> ResNet:
    """ResNet-26 with stand-alone self-attention (arXiv 1906.05909) in place of every 3x3 convolution: 75.8 % top-1."""
    return ResNet(26, mixer=StandAloneSelfAttention, stem=stem, **options)


@zoo_entry()
def sasa_resnet38(stem: Stem = "conv", **options: Any) -> ResNet:
    """ResNet-38 with stand-alone self-attention (arXiv 1906.05909) in place of every 3x3 convolution: 77.1 % top-1."""
    return ResNet(38, mixer=StandAloneSelfAttention, stem=stem, **options)


@zoo_entry()
def sasa_resnet50(stem: Stem = "conv", **options: Any) -> ResNet:
    """ResNet-50 with stand-alone self-attention (arXiv 1906.05909) in place of every 3x3 convolution: 77.4 % top-1."""
    return ResNet(50, mixer=StandAloneSelfAttention, stem=stem, **options)


_SE8 = partial(SqueezeExcitation, reduction=8)  # the reduction of HaloNet's detectors; the rest: assumption A34


@zoo_entry()
def halo_resnet50(block: int = 8, halo: int = 3, **options: Any) -> ResNet:
    """SE-ResNet-50 with halo attention in stage 4 (arXiv 2103.12731, detection): 45.2 box AP, block 32: 45.4."""
    mixer = partial(HaloAttention, heads=32, block=block, halo=halo)
    return ResNet(50, _SE8, mixer=mixer, mixer_stages=(4,), **options)


@zoo_entry()
def halo_resnet101(block: int = 8, halo: int = 3, **options: Any) -> ResNet:
    """SE-ResNet-101 with halo attention in stage 4 (arXiv 2103.12731, detection): 46.8 box AP."""
    mixer = partial(HaloAttention, heads=32, block=block, halo=halo)
    return ResNet(101, _SE8, mixer=mixer, mixer_stages=(4,), **options)
