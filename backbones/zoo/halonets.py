"""HaloNets (Vaswani et al., CVPR 2021, arXiv 2103.12731): the paper's, and those that timm trained."""

from typing import Any

from backbones.halonet import HaloNet
from backbones.timm_halo import TimmHaloNet
from backbones.zoo.registry import zoo_entry

# Columns of the paper's table of the family: block b, halo h, value ratio r_v, bottleneck ratio r_b.


@zoo_entry()
def halonet_h0(**options: Any) -> HaloNet:
    """HaloNet-H0 (arXiv 2103.12731, table of the family), for images of 256 pixels."""
    return HaloNet(8, 3, 1.0, 0.5, depths=(3, 3, 7, 3), **options)


@zoo_entry()
def halonet_h1(**options: Any) -> HaloNet:
    """HaloNet-H1 (arXiv 2103.12731), for images of 256 pixels."""
    return HaloNet(8, 3, 1.0, 1.0, depths=(3, 3, 10, 3), **options)


@zoo_entry()
def halonet_h2(**options: Any) -> HaloNet:
    """HaloNet-H2 (arXiv 2103.12731), for images of 256 pixels."""
    return HaloNet(8, 3, 1.0, 1.25, depths=(3, 3, 11, 3), **options)


@zoo_entry()
def halonet_h3(**options: Any) -> HaloNet:
    """HaloNet-H3 (arXiv 2103.12731), for images of 320 pixels; 1280 last channels give the printed 12.3 M."""
    return HaloNet(10, 3, 1.0, 1.5, depths=(3, 3, 12, 3), final_channels=1280, **options)


@zoo_entry()
def halonet_h4(**options: Any) -> HaloNet:
    """HaloNet-H4 (arXiv 2103.12731), for images of 384 pixels."""
    return HaloNet(12, 2, 1.0, 3.0, depths=(3, 3, 12, 3), final_channels=1280, **options)


@zoo_entry()
def halonet_h5(**options: Any) -> HaloNet:
    """HaloNet-H5 (arXiv 2103.12731), for images of 448 pixels."""
    return HaloNet(14, 2, 2.5, 2.0, depths=(3, 3, 23, 3), final_channels=1536, **options)


@zoo_entry()
def halonet_h6(**options: Any) -> HaloNet:
    """HaloNet-H6 (arXiv 2103.12731), for images of 512 pixels."""
    return HaloNet(8, 4, 3.0, 2.75, depths=(3, 3, 24, 3), final_channels=1536, **options)


@zoo_entry()
def halonet_h7(**options: Any) -> HaloNet:
    """HaloNet-H7 (arXiv 2103.12731), for images of 600 pixels: 84.9 % top-1."""
    return HaloNet(10, 3, 4.0, 3.5, depths=(3, 3, 26, 3), final_channels=2048, **options)


@zoo_entry()
def halonet_50(**options: Any) -> HaloNet:
    """HaloNet-50 (arXiv 2103.12731, comparison with ResNet-50), 16 channels per head: 78.6 % top-1."""
    return HaloNet(8, 3, 1.0, 4.0, depths=(3, 4, 6, 3), heads=(4, 8, 16, 32), activation="relu", **options)


@zoo_entry()
def halonet_h4_21k(block: int = 8, halo: int = 2, **options: Any) -> HaloNet:
    """HaloNet-H4 for ImageNet-21k (arXiv 2103.12731): 85.6 % top-1 after fine-tuning at 384 pixels.

    Trained with images of 256 pixels, fine-tuned with 384 (block 12, halo 2) or 512 (block 16, halo 1).
    """
    return HaloNet(block, halo, 1.0, 4.0, depths=(3, 4, 12, 3), width=128, **options)


@zoo_entry()
def halonet_h4_conv12(block: int = 8, halo: int = 2, **options: Any) -> HaloNet:
    """HaloNet-H4 for ImageNet-21k with convolutions in stages 1 and 2 (arXiv 2103.12731): 85.5 % top-1.

    Trained with images of 256 pixels, fine-tuned with 384 (block 12, halo 2) or 512 (block 16, halo 1).
    """
    return HaloNet(block, halo, 1.0, 4.0, depths=(3, 4, 12, 3), width=128, conv_stages=(1, 2), **options)


@zoo_entry()
def halonet26t(**options: Any) -> TimmHaloNet:
    """Timm's HaloNet-26-T, halo attention in stages 3 and 4: 79.1 % top-1 with its weights."""
    return TimmHaloNet("halonet26t", **options)


@zoo_entry()
def halonet50ts(**options: Any) -> TimmHaloNet:
    """Timm's HaloNet-50-TS, halo attention in stages 2 to 4: 81.7 % top-1 with its weights."""
    return TimmHaloNet("halonet50ts", **options)


@zoo_entry()
def sehalonet33ts(**options: Any) -> TimmHaloNet:
    """Timm's SE-HaloNet-33-TS, with squeeze and excitation: 81.0 % top-1 with its weights."""
    return TimmHaloNet("sehalonet33ts", **options)


@zoo_entry()
def eca_halonext26ts(**options: Any) -> TimmHaloNet:
    """Timm's ECA-HaloNeXt-26-TS, grouped, with channel attention: 79.5 % top-1 with its weights."""
    return TimmHaloNet("eca_halonext26ts", **options)


@zoo_entry()
def halo2botnet50ts(**options: Any) -> TimmHaloNet:
    """Timm's Halo2BoTNet-50-TS, bottleneck attention in stage 4: 82.1 % top-1 with its weights."""
    return TimmHaloNet("halo2botnet50ts_256", **options)
