"""LaViT (Zhang et al., CVPR 2024, arXiv 2406.00427) in three sizes, with stages of our own choice."""

from backbones.lavit import LaViT
from backbones.swin import OutNorms
from backbones.zoo.registry import zoo_entry
from backbones.zoo.swin import swin_classifier


@zoo_entry(head=swin_classifier, out_norms="last")
def lavit_t(
    diagonality: float = 0.0,
    window: int = 14,
    out_norms: OutNorms = "each",
    drop_path: float = 0.1,
    image_size: int = 224,
    frozen_stages: int = 0,
    checkpointing: bool = False,
    weights: str | None = None,
) -> LaViT:
    """LaViT-T, a reconstruction with stages of our own choice (arXiv 2406.00427; its tables and code are not public).

    The paper's LaViT-T has 10.9 M parameters and 79.2 % top-1; this network has 11.8 M, and no accuracy yet.

    Args:
        diagonality: Weight of the loss that `auxiliary_loss()` returns in training, 0 for none; try 0.01 to 0.1.
        window: Side of a window at stride 16 in cells, even; at stride 32 it is half of that.
        out_norms: `each`: layer normalisation of every feature map; `last`: of the last one only, for classification.
        drop_path: Probability of skipping the last block's branches in training, rising from 0 at the first.
        image_size: Side of the images in pixels whose grids of cells the position embeddings have.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Path of a .pth, .pt or .safetensors file; none leaves the random initialisation.
    """
    return LaViT(
        depths=(2, 2, 2, 2),
        vanilla=(1, 1),
        window=window,
        diagonality=diagonality,
        out_norms=out_norms,
        drop_path=drop_path,
        image_size=image_size,
        frozen_stages=frozen_stages,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry(head=swin_classifier, out_norms="last")
def lavit_s(
    diagonality: float = 0.0,
    window: int = 14,
    out_norms: OutNorms = "each",
    drop_path: float = 0.1,
    image_size: int = 224,
    frozen_stages: int = 0,
    checkpointing: bool = False,
    weights: str | None = None,
) -> LaViT:
    """LaViT-S, a reconstruction with stages of our own choice (arXiv 2406.00427; its tables and code are not public).

    The paper's LaViT-S has 22.4 M parameters and 82.6 % top-1; this network has 20.5 M, and no accuracy yet.

    Args:
        diagonality: Weight of the loss that `auxiliary_loss()` returns in training, 0 for none; try 0.01 to 0.1.
        window: Side of a window at stride 16 in cells, even; at stride 32 it is half of that.
        out_norms: `each`: layer normalisation of every feature map; `last`: of the last one only, for classification.
        drop_path: Probability of skipping the last block's branches in training, rising from 0 at the first.
        image_size: Side of the images in pixels whose grids of cells the position embeddings have.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Path of a .pth, .pt or .safetensors file; none leaves the random initialisation.
    """
    return LaViT(
        depths=(3, 4, 6, 3),
        vanilla=(2, 1),
        window=window,
        diagonality=diagonality,
        out_norms=out_norms,
        drop_path=drop_path,
        image_size=image_size,
        frozen_stages=frozen_stages,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry(head=swin_classifier, out_norms="last")
def lavit_b(
    diagonality: float = 0.0,
    window: int = 14,
    out_norms: OutNorms = "each",
    drop_path: float = 0.1,
    image_size: int = 224,
    frozen_stages: int = 0,
    checkpointing: bool = False,
    weights: str | None = None,
) -> LaViT:
    """LaViT-B, a reconstruction with stages of our own choice (arXiv 2406.00427; its tables and code are not public).

    The paper's LaViT-B has 39.6 M parameters and 83.1 % top-1; this network has 33.7 M, and no accuracy yet.

    Args:
        diagonality: Weight of the loss that `auxiliary_loss()` returns in training, 0 for none; try 0.01 to 0.1.
        window: Side of a window at stride 16 in cells, even; at stride 32 it is half of that.
        out_norms: `each`: layer normalisation of every feature map; `last`: of the last one only, for classification.
        drop_path: Probability of skipping the last block's branches in training, rising from 0 at the first.
        image_size: Side of the images in pixels whose grids of cells the position embeddings have.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1, up to 5, everything.
        checkpointing: Whether blocks are computed again in the backward pass instead of kept, to save memory.
        weights: Path of a .pth, .pt or .safetensors file; none leaves the random initialisation.
    """
    return LaViT(
        depths=(3, 4, 18, 3),
        vanilla=(2, 1),
        window=window,
        diagonality=diagonality,
        out_norms=out_norms,
        drop_path=drop_path,
        image_size=image_size,
        frozen_stages=frozen_stages,
        checkpointing=checkpointing,
        weights=weights,
    )
