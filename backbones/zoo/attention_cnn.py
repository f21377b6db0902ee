"""The networks of "On the relationship between self-attention and convolutional layers" (arXiv 1911.03584)."""

from functools import partial

from attention.content_relative import ContentRelativeSelfAttention
from attention.learned_relative import LearnedRelativeSelfAttention
from attention.quadratic import Covariance, QuadraticSelfAttention
from backbones.attention_cnn import AttentionCNN
from backbones.zoo.registry import zoo_entry


@zoo_entry()
def attention_cnn_quadratic(
    covariance: Covariance = "isotropic",
    dropout: float = 0.1,
    frozen_stages: int = 0,
    checkpointing: bool = False,
    weights: str | None = None,
) -> AttentionCNN:
    """SA with the quadratic encoding, for CIFAR-10 (arXiv 1911.03584, table 1): heads attend with a learned Gaussian.

    Args:
        covariance: `isotropic` (quadratic) or `full` (the paper's generalised form; every position weighs every other).
        dropout: Probability of dropping a value at the end of the two branches of a layer, below 1.
        frozen_stages: Stages without training: 0 none, 1 the embedding, 2 also the first layer, up to 7, everything.
        checkpointing: Whether layers are computed again in the backward pass instead of kept, to save memory.
        weights: Path of a .pth, .pt or .safetensors file; none leaves the random initialisation.
    """
    return AttentionCNN(
        partial(QuadraticSelfAttention, covariance=covariance),
        dropout=dropout,
        frozen_stages=frozen_stages,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry()
def attention_cnn_learned(
    size: int = 16,
    dropout: float = 0.1,
    frozen_stages: int = 0,
    checkpointing: bool = False,
    weights: str | None = None,
) -> AttentionCNN:
    """SA with the learned encoding, for CIFAR-10 (arXiv 1911.03584, table 1): heads attend by row and column offset.

    Args:
        size: Side of the largest map whose offsets all have an encoding of their own, in cells of 2 x 2 pixels.
        dropout: Probability of dropping a value at the end of the two branches of a layer, below 1.
        frozen_stages: Stages without training: 0 none, 1 the embedding, 2 also the first layer, up to 7, everything.
        checkpointing: Whether layers are computed again in the backward pass instead of kept, to save memory.
        weights: Path of a .pth, .pt or .safetensors file; none leaves the random initialisation.
    """
    return AttentionCNN(
        partial(LearnedRelativeSelfAttention, size=size),
        dropout=dropout,
        frozen_stages=frozen_stages,
        checkpointing=checkpointing,
        weights=weights,
    )


@zoo_entry()
def attention_cnn_content(
    size: int = 16,
    dropout: float = 0.1,
    frozen_stages: int = 0,
    checkpointing: bool = False,
    weights: str | None = None,
) -> AttentionCNN:
    """SA with the learned encoding and content, for CIFAR-10 (arXiv 1911.03584, table 1).

    The time grows with the square of the number of cells, at stride 2, so it is for small images.

    Args:
        size: Side of the largest map whose offsets all have an encoding of their own, in cells of 2 x 2 pixels.
        dropout: Probability of dropping a value at the end of the two branches of a layer, below 1.
        frozen_stages: Stages without training: 0 none, 1 the embedding, 2 also the first layer, up to 7, everything.
        checkpointing: Whether layers are computed again in the backward pass instead of kept, to save memory.
        weights: Path of a .pth, .pt or .safetensors file; none leaves the random initialisation.
    """
    return AttentionCNN(
        partial(ContentRelativeSelfAttention, size=size),
        dropout=dropout,
        frozen_stages=frozen_stages,
        checkpointing=checkpointing,
        weights=weights,
    )
