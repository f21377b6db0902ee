"""The focal loss over many anchors and classes, almost all of which are background."""

import torch
from torch import Tensor
from torch.nn import functional

BACKGROUND, IGNORED = -1, -2
"""Labels of an anchor that holds no object, and of one that takes no part in training."""


def focal_loss(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss of every anchor, summed over the classes (Lin et al., arXiv 1708.02002, equation 5).

    For the probability p = sigmoid(logit), a class that is there costs -alpha (1 - p)^gamma log p, any other
    -(1 - alpha) p^gamma log(1 - p). The second is computed for all of them, and exchanged where the first belongs, so
    that no targets are written out and few maps of the logits' size are kept for the backward pass.

    Args:
        logits: (..., K).
        labels: (...) int64: 0..K-1, `BACKGROUND` or `IGNORED`.
        alpha: Weight of a class that is there, 0..1.
        gamma: Exponent that makes clear cases cheap.

    Returns:
        (...), 0 where ignored.
    """
    background = (logits.sigmoid().pow(gamma) * functional.softplus(logits)).sum(dim=-1) * (1 - alpha)
    own = logits.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    there = own.neg().sigmoid().pow(gamma) * functional.softplus(-own) * alpha
    absent = own.sigmoid().pow(gamma) * functional.softplus(own) * (1 - alpha)
    loss = background + torch.where(labels >= 0, there - absent, 0.0)
    return loss.where(labels > IGNORED, 0.0)
