"""The VGG of "Learn to pay attention" (Jetley et al., ICLR 2018, arXiv 1804.02391)."""

from backbones.base import Norms
from backbones.vgg import VGG, LearnToPayNetwork
from backbones.zoo.registry import zoo_entry


@zoo_entry(head=LearnToPayNetwork, out_strides=(1, 2, 4, 32))
def ltpa_vgg(
    out_strides: tuple[int, ...] = (4, 8, 16, 32),
    frozen_stages: int = 0,
    norms: Norms = "train",
    checkpointing: bool = False,
    weights: str | None = None,
) -> VGG:
    """The host of (VGG-att3)-concat-pc for CIFAR: 77.03 % top-1 of 100 classes (arXiv 1804.02391, 22.97 % error).

    The attention is in the classifier, `backbones.vgg.LearnToPayNetwork`, whose options give the paper's other variants
    (att2, att1, dp, indep).

    Args:
        out_strides: Strides of the features: of 1 (256 channels), 2, 4, 8, 16 and 32 (512) those wanted, 16 or 32 last.
        frozen_stages: Stages without training: 0 none, 1 the first block of convolutions, up to 7, everything.
        norms: What the host's batch normalisations learn: `train`, `eval` (no statistics) or `frozen` (nothing).
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Path of a .pth, .pt or .safetensors file; none leaves the random initialisation.
    """
    return VGG(
        out_strides=out_strides,
        frozen_stages=frozen_stages,
        norms=norms,
        checkpointing=checkpointing,
        weights=weights,
    )
