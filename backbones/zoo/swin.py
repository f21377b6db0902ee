"""Swin Transformer (Liu et al., ICCV 2021, arXiv 2103.14030) in three sizes."""

from torch import nn

from backbones.base import Backbone
from backbones.classifier import Classifier
from backbones.swin import OutNorms, Swin
from backbones.zoo.registry import zoo_entry


def swin_classifier(backbone: Backbone, num_classes: int) -> Classifier:
    """Global average and one linear layer, initialised like the others of these networks: normal, deviation 0.02."""
    network = Classifier(backbone, num_classes)
    nn.init.trunc_normal_(network.fc.weight, std=0.02)
    return network


@zoo_entry(head=swin_classifier, out_norms="last")
def swin_t(
    out_norms: OutNorms = "each",
    drop_path: float = 0.2,
    shift_small_maps: bool = False,
    frozen_stages: int = 0,
    checkpointing: bool = False,
    weights: str | None = None,
) -> Swin:
    """Swin-T: 81.2 % top-1 (arXiv 2103.14030, table 1), torchvision's weights 81.474 %.

    Args:
        out_norms: `each`: layer normalisation of every feature map; `last`: of the last one only, for classification.
        drop_path: Probability of skipping the last block's branches in training, rising from 0 at the first.
        shift_small_maps: Whether windows are shifted along sides that one window covers, as detectors' weights need it.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return Swin(
        embed_channels=96,
        depths=(2, 2, 6, 2),
        out_norms=out_norms,
        drop_path=drop_path,
        shift_small_maps=shift_small_maps,
        frozen_stages=frozen_stages,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry(head=swin_classifier, out_norms="last")
def swin_s(
    out_norms: OutNorms = "each",
    drop_path: float = 0.3,
    shift_small_maps: bool = False,
    frozen_stages: int = 0,
    checkpointing: bool = False,
    weights: str | None = None,
) -> Swin:
    """Swin-S: 83.2 % top-1 (arXiv 2103.14030, table 1), torchvision's weights 83.196 %.

    Args:
        out_norms: `each`: layer normalisation of every feature map; `last`: of the last one only, for classification.
        drop_path: Probability of skipping the last block's branches in training, rising from 0 at the first.
        shift_small_maps: Whether windows are shifted along sides that one window covers, as detectors' weights need it.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return Swin(
        embed_channels=96,
        depths=(2, 2, 18, 2),
        out_norms=out_norms,
        drop_path=drop_path,
        shift_small_maps=shift_small_maps,
        frozen_stages=frozen_stages,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry(head=swin_classifier, out_norms="last")
def swin_b(
    out_norms: OutNorms = "each",
    drop_path: float = 0.5,
    shift_small_maps: bool = False,
    frozen_stages: int = 0,
    checkpointing: bool = False,
    weights: str | None = None,
) -> Swin:
    """Swin-B: 83.5 % top-1 (arXiv 2103.14030, table 1), torchvision's weights 83.582 %.

    Args:
        out_norms: `each`: layer normalisation of every feature map; `last`: of the last one only, for classification.
        drop_path: Probability of skipping the last block's branches in training, rising from 0 at the first.
        shift_small_maps: Whether windows are shifted along sides that one window covers, as detectors' weights need it.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Weights to start from, see `backbones.load_weights`; none leaves the random initialisation.
    """
    return Swin(
        embed_channels=128,
        depths=(2, 2, 18, 2),
        out_norms=out_norms,
        drop_path=drop_path,
        shift_small_maps=shift_small_maps,
        frozen_stages=frozen_stages,
        checkpointing=checkpointing,
        weights=weights,
    )
