"""The networks of "On the relationship between self-attention and convolutional layers" (arXiv 1911.03584)."""

from functools import partial
from typing import Any

from attention.content_relative import ContentRelativeSelfAttention
from attention.learned_relative import LearnedRelativeSelfAttention
from attention.quadratic import Covariance, QuadraticSelfAttention
from backbones.attention_cnn import AttentionCNN
from backbones.zoo.registry import zoo_entry


@zoo_entry()
def attention_cnn_quadratic(covariance: Covariance = "isotropic", dropout: float = 0.1, **options: Any) -> AttentionCNN:
    """SA with the quadratic encoding, for CIFAR-10 (arXiv 1911.03584, table 1): heads attend with learned Gaussians."""
    return AttentionCNN(partial(QuadraticSelfAttention, covariance=covariance), dropout=dropout, **options)


@zoo_entry()
def attention_cnn_learned(size: int = 16, dropout: float = 0.1, **options: Any) -> AttentionCNN:
    """SA with the learned encoding, for CIFAR-10 (arXiv 1911.03584, table 1): heads attend by row and column offset."""
    return AttentionCNN(partial(LearnedRelativeSelfAttention, size=size), dropout=dropout, **options)


@zoo_entry()
def attention_cnn_content(size: int = 16, dropout: float = 0.1, **options: Any) -> AttentionCNN:
    """SA with the learned encoding and content, for CIFAR-10 (arXiv 1911.03584, table 1).

    The time grows with the square of the number of cells, at stride 2, so it is for small images.
    """
    return AttentionCNN(partial(ContentRelativeSelfAttention, size=size), dropout=dropout, **options)
