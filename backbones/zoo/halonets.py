"""HaloNets (Vaswani et al., CVPR 2021, arXiv 2103.12731): the paper's, and those that timm trained."""

from backbones.base import Norms
from backbones.halonet import HaloNet
from backbones.timm_halo import TimmHaloNet
from backbones.zoo.registry import zoo_entry


@zoo_entry()
def halonet_h0(
    drop_path: float = 0.0,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> HaloNet:
    """HaloNet-H0 (arXiv 2103.12731, table of the family), for images of 256 pixels.

    Args:
        drop_path: Probability of skipping the last block's branch in training, rising from 0 at the first.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return HaloNet(
        block=8,
        halo=3,
        bottleneck_ratio=0.5,
        depths=(3, 3, 7, 3),
        drop_path=drop_path,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry()
def halonet_h1(
    drop_path: float = 0.0,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> HaloNet:
    """HaloNet-H1 (arXiv 2103.12731), for images of 256 pixels.

    Args:
        drop_path: Probability of skipping the last block's branch in training, rising from 0 at the first.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return HaloNet(
        block=8,
        halo=3,
        depths=(3, 3, 10, 3),
        drop_path=drop_path,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry()
def halonet_h2(
    drop_path: float = 0.0,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> HaloNet:
    """HaloNet-H2 (arXiv 2103.12731), for images of 256 pixels.

    Args:
        drop_path: Probability of skipping the last block's branch in training, rising from 0 at the first.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return HaloNet(
        block=8,
        halo=3,
        bottleneck_ratio=1.25,
        depths=(3, 3, 11, 3),
        drop_path=drop_path,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry()
def halonet_h3(
    drop_path: float = 0.0,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> HaloNet:
    """HaloNet-H3 (arXiv 2103.12731), for images of 320 pixels; 1280 last channels give the printed 12.3 M.

    Args:
        drop_path: Probability of skipping the last block's branch in training, rising from 0 at the first.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return HaloNet(
        block=10,
        halo=3,
        bottleneck_ratio=1.5,
        depths=(3, 3, 12, 3),
        final_channels=1280,
        drop_path=drop_path,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry()
def halonet_h4(
    drop_path: float = 0.0,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> HaloNet:
    """HaloNet-H4 (arXiv 2103.12731), for images of 384 pixels.

    Args:
        drop_path: Probability of skipping the last block's branch in training, rising from 0 at the first.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return HaloNet(
        block=12,
        halo=2,
        bottleneck_ratio=3.0,
        depths=(3, 3, 12, 3),
        final_channels=1280,
        drop_path=drop_path,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry()
def halonet_h5(
    drop_path: float = 0.0,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> HaloNet:
    """HaloNet-H5 (arXiv 2103.12731), for images of 448 pixels.

    Args:
        drop_path: Probability of skipping the last block's branch in training, rising from 0 at the first.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return HaloNet(
        block=14,
        halo=2,
        value_ratio=2.5,
        bottleneck_ratio=2.0,
        depths=(3, 3, 23, 3),
        final_channels=1536,
        drop_path=drop_path,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry()
def halonet_h6(
    drop_path: float = 0.0,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> HaloNet:
    """HaloNet-H6 (arXiv 2103.12731), for images of 512 pixels.

    Args:
        drop_path: Probability of skipping the last block's branch in training, rising from 0 at the first.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return HaloNet(
        block=8,
        halo=4,
        value_ratio=3.0,
        bottleneck_ratio=2.75,
        depths=(3, 3, 24, 3),
        final_channels=1536,
        drop_path=drop_path,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry()
def halonet_h7(
    drop_path: float = 0.0,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> HaloNet:
    """HaloNet-H7 (arXiv 2103.12731), for images of 600 pixels: 84.9 % top-1.

    Args:
        drop_path: Probability of skipping the last block's branch in training, rising from 0 at the first.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return HaloNet(
        block=10,
        halo=3,
        value_ratio=4.0,
        bottleneck_ratio=3.5,
        depths=(3, 3, 26, 3),
        final_channels=2048,
        drop_path=drop_path,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry()
def halonet_50(
    drop_path: float = 0.0,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> HaloNet:
    """HaloNet-50 (arXiv 2103.12731, comparison with ResNet-50), 16 channels per head: 78.6 % top-1.

    Args:
        drop_path: Probability of skipping the last block's branch in training, rising from 0 at the first.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return HaloNet(
        block=8,
        halo=3,
        bottleneck_ratio=4.0,
        depths=(3, 4, 6, 3),
        heads=(4, 8, 16, 32),
        activation="relu",
        drop_path=drop_path,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry()
def halonet_h4_21k(
    block: int = 8,
    halo: int = 2,
    drop_path: float = 0.0,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> HaloNet:
    """HaloNet-H4 for ImageNet-21k (arXiv 2103.12731): 85.6 % top-1 after fine-tuning at 384 pixels.

    Trained with images of 256 pixels, fine-tuned with 384 (block 12, halo 2) or 512 (block 16, halo 1).

    Args:
        block: Side of a block of queries in cells; tables from weights with another block are interpolated.
        halo: Cells around a block that its queries see as well.
        drop_path: Probability of skipping the last block's branch in training, rising from 0 at the first.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return HaloNet(
        block=block,
        halo=halo,
        bottleneck_ratio=4.0,
        depths=(3, 4, 12, 3),
        width=128,
        drop_path=drop_path,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry()
def halonet_h4_conv12(
    block: int = 8,
    halo: int = 2,
    drop_path: float = 0.0,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> HaloNet:
    """HaloNet-H4 for ImageNet-21k with convolutions in stages 1 and 2 (arXiv 2103.12731): 85.5 % top-1.

    Trained with images of 256 pixels, fine-tuned with 384 (block 12, halo 2) or 512 (block 16, halo 1).

    Args:
        block: Side of a block of queries in cells; tables from weights with another block are interpolated.
        halo: Cells around a block that its queries see as well.
        drop_path: Probability of skipping the last block's branch in training, rising from 0 at the first.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return HaloNet(
        block=block,
        halo=halo,
        bottleneck_ratio=4.0,
        depths=(3, 4, 12, 3),
        width=128,
        conv_stages=(1, 2),
        drop_path=drop_path,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry()
def halonet26t(
    drop_path: float = 0.0,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> TimmHaloNet:
    """Timm's HaloNet-26-T, halo attention in stages 3 and 4: 79.1 % top-1 with its weights.

    Args:
        drop_path: Probability of skipping the last block's branch in training, rising from 0 at the first.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: `imagenet` for timm's weights, or see `backbones.load_weights`; none leaves the random initialisation.
    """
    return TimmHaloNet(
        "halonet26t",
        drop_path=drop_path,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry()
def halonet50ts(
    drop_path: float = 0.0,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> TimmHaloNet:
    """Timm's HaloNet-50-TS, halo attention in stages 2 to 4: 81.7 % top-1 with its weights.

    Args:
        drop_path: Probability of skipping the last block's branch in training, rising from 0 at the first.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: `imagenet` for timm's weights, or see `backbones.load_weights`; none leaves the random initialisation.
    """
    return TimmHaloNet(
        "halonet50ts",
        drop_path=drop_path,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry()
def sehalonet33ts(
    drop_path: float = 0.0,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> TimmHaloNet:
    """Timm's SE-HaloNet-33-TS, with squeeze and excitation: 81.0 % top-1 with its weights.

    Args:
        drop_path: Probability of skipping the last block's branch in training, rising from 0 at the first.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: `imagenet` for timm's weights, or see `backbones.load_weights`; none leaves the random initialisation.
    """
    return TimmHaloNet(
        "sehalonet33ts",
        drop_path=drop_path,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry()
def eca_halonext26ts(
    drop_path: float = 0.0,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> TimmHaloNet:
    """Timm's ECA-HaloNeXt-26-TS, grouped, with channel attention: 79.5 % top-1 with its weights.

    Args:
        drop_path: Probability of skipping the last block's branch in training, rising from 0 at the first.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: `imagenet` for timm's weights, or see `backbones.load_weights`; none leaves the random initialisation.
    """
    return TimmHaloNet(
        "eca_halonext26ts",
        drop_path=drop_path,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry()
def halo2botnet50ts(
    drop_path: float = 0.0,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> TimmHaloNet:
    """Timm's Halo2BoTNet-50-TS, bottleneck attention in stage 4: 82.1 % top-1 with its weights.

    Args:
        drop_path: Probability of skipping the last block's branch in training, rising from 0 at the first.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        norms: What batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: `imagenet` for timm's weights, or see `backbones.load_weights`; none leaves the random initialisation.
    """
    return TimmHaloNet(
        "halo2botnet50ts_256",
        drop_path=drop_path,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )
