"""ELSA-Swin and ELSA-VOLO (Zhou et al., arXiv 2112.12786), each in the sizes of its host."""

from backbones.base import Norms
from backbones.elsa_swin import ELSASwin
from backbones.elsa_volo import ELSAVOLO, VOLOClassifier
from backbones.swin import OutNorms
from backbones.zoo.registry import zoo_entry
from backbones.zoo.swin import swin_classifier


@zoo_entry(head=swin_classifier, out_norms="last")
def elsa_swin_t(
    out_norms: OutNorms = "each",
    drop_path: float = 0.1,
    shift_small_maps: bool = False,
    frozen_stages: int = 0,
    checkpointing: bool = False,
    weights: str | None = None,
) -> ELSASwin:
    """ELSA-Swin-T: 82.7 % top-1 (arXiv 2112.12786).

    Args:
        out_norms: `each`: layer normalisation of every feature map; `last`: of the last one only, for classification.
        drop_path: Probability of skipping the last block's branches in training, rising from 0 at the first.
        shift_small_maps: Whether windows are shifted along sides that one window covers, as detectors' weights need it.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return ELSASwin(
        embed_channels=96,
        depths=(2, 2, 6, 2),
        group_width=4,
        out_norms=out_norms,
        drop_path=drop_path,
        shift_small_maps=shift_small_maps,
        frozen_stages=frozen_stages,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry(head=swin_classifier, out_norms="last")
def elsa_swin_s(
    out_norms: OutNorms = "each",
    drop_path: float = 0.3,
    shift_small_maps: bool = False,
    frozen_stages: int = 0,
    checkpointing: bool = False,
    weights: str | None = None,
) -> ELSASwin:
    """ELSA-Swin-S: 83.5 % top-1 (arXiv 2112.12786).

    Args:
        out_norms: `each`: layer normalisation of every feature map; `last`: of the last one only, for classification.
        drop_path: Probability of skipping the last block's branches in training, rising from 0 at the first.
        shift_small_maps: Whether windows are shifted along sides that one window covers, as detectors' weights need it.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return ELSASwin(
        embed_channels=96,
        depths=(2, 2, 18, 2),
        group_width=8,
        out_norms=out_norms,
        drop_path=drop_path,
        shift_small_maps=shift_small_maps,
        frozen_stages=frozen_stages,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry(head=swin_classifier, out_norms="last")
def elsa_swin_b(
    out_norms: OutNorms = "each",
    drop_path: float = 0.5,
    shift_small_maps: bool = False,
    frozen_stages: int = 0,
    checkpointing: bool = False,
    weights: str | None = None,
) -> ELSASwin:
    """ELSA-Swin-B: 84.0 % top-1 (arXiv 2112.12786).

    Args:
        out_norms: `each`: layer normalisation of every feature map; `last`: of the last one only, for classification.
        drop_path: Probability of skipping the last block's branches in training, rising from 0 at the first.
        shift_small_maps: Whether windows are shifted along sides that one window covers, as detectors' weights need it.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return ELSASwin(
        embed_channels=128,
        depths=(2, 2, 18, 2),
        group_width=8,
        out_norms=out_norms,
        drop_path=drop_path,
        shift_small_maps=shift_small_maps,
        frozen_stages=frozen_stages,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry(head=VOLOClassifier, out_norms=False)
def elsa_volo_d1(
    kernel_size: int = 5,
    out_norms: bool = True,
    drop_path: float = 0.1,
    image_size: int = 224,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> ELSAVOLO:
    """ELSA-VOLO-D1, a reconstruction (arXiv 2112.12786; no code was released).

    Args:
        kernel_size: Side k of ELSA's neighbourhood in cells, odd; the paper's is not known.
        out_norms: Whether to normalise every feature map, layer-wise; the classification network does not.
        drop_path: Probability of skipping the last block's branches in training, rising over the blocks.
        image_size: Side of the images in pixels whose grid of cells the position embedding has.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and the stage at stride 8, up to 5.
        norms: What the stem's batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return ELSAVOLO(
        depths=(4, 4, 8, 2),
        embed_channels=(192, 384),
        heads=(6, 12),
        kernel_size=kernel_size,
        out_norms=out_norms,
        drop_path=drop_path,
        image_size=image_size,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry(head=VOLOClassifier, out_norms=False)
def elsa_volo_d2(
    kernel_size: int = 5,
    out_norms: bool = True,
    drop_path: float = 0.1,
    image_size: int = 224,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> ELSAVOLO:
    """ELSA-VOLO-D2, a reconstruction (arXiv 2112.12786; no code was released).

    Args:
        kernel_size: Side k of ELSA's neighbourhood in cells, odd; the paper's is not known.
        out_norms: Whether to normalise every feature map, layer-wise; the classification network does not.
        drop_path: Probability of skipping the last block's branches in training, rising over the blocks.
        image_size: Side of the images in pixels whose grid of cells the position embedding has.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and the stage at stride 8, up to 5.
        norms: What the stem's batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return ELSAVOLO(
        depths=(6, 4, 10, 4),
        embed_channels=(256, 512),
        heads=(8, 16),
        kernel_size=kernel_size,
        out_norms=out_norms,
        drop_path=drop_path,
        image_size=image_size,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry(head=VOLOClassifier, out_norms=False)
def elsa_volo_d3(
    kernel_size: int = 5,
    out_norms: bool = True,
    drop_path: float = 0.1,
    image_size: int = 224,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> ELSAVOLO:
    """ELSA-VOLO-D3, a reconstruction (arXiv 2112.12786; no code was released).

    Args:
        kernel_size: Side k of ELSA's neighbourhood in cells, odd; the paper's is not known.
        out_norms: Whether to normalise every feature map, layer-wise; the classification network does not.
        drop_path: Probability of skipping the last block's branches in training, rising over the blocks.
        image_size: Side of the images in pixels whose grid of cells the position embedding has.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and the stage at stride 8, up to 5.
        norms: What the stem's batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return ELSAVOLO(
        depths=(8, 8, 16, 4),
        embed_channels=(256, 512),
        heads=(8, 16),
        kernel_size=kernel_size,
        out_norms=out_norms,
        drop_path=drop_path,
        image_size=image_size,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry(head=VOLOClassifier, out_norms=False)
def elsa_volo_d4(
    kernel_size: int = 5,
    out_norms: bool = True,
    drop_path: float = 0.1,
    image_size: int = 224,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> ELSAVOLO:
    """ELSA-VOLO-D4, a reconstruction (arXiv 2112.12786; no code was released).

    Args:
        kernel_size: Side k of ELSA's neighbourhood in cells, odd; the paper's is not known.
        out_norms: Whether to normalise every feature map, layer-wise; the classification network does not.
        drop_path: Probability of skipping the last block's branches in training, rising over the blocks.
        image_size: Side of the images in pixels whose grid of cells the position embedding has.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and the stage at stride 8, up to 5.
        norms: What the stem's batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return ELSAVOLO(
        depths=(8, 8, 16, 4),
        embed_channels=(384, 768),
        heads=(12, 16),
        kernel_size=kernel_size,
        out_norms=out_norms,
        drop_path=drop_path,
        image_size=image_size,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry(head=VOLOClassifier, out_norms=False)
def elsa_volo_d5(
    kernel_size: int = 5,
    out_norms: bool = True,
    drop_path: float = 0.1,
    image_size: int = 224,
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> ELSAVOLO:
    """ELSA-VOLO-D5, a reconstruction (arXiv 2112.12786; no code was released); the paper's: 87.2 % top-1, size unknown.

    Args:
        kernel_size: Side k of ELSA's neighbourhood in cells, odd; the paper's is not known.
        out_norms: Whether to normalise every feature map, layer-wise; the classification network does not.
        drop_path: Probability of skipping the last block's branches in training, rising over the blocks.
        image_size: Side of the images in pixels whose grid of cells the position embedding has.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and the stage at stride 8, up to 5.
        norms: What the stem's batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return ELSAVOLO(
        depths=(12, 12, 20, 4),
        embed_channels=(384, 768),
        heads=(12, 16),
        mlp_ratio=4.0,
        stem_channels=128,
        kernel_size=kernel_size,
        out_norms=out_norms,
        drop_path=drop_path,
        image_size=image_size,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )
