"""Diagonality-preserving loss of LaViT (Zhang et al., CVPR 2024, arXiv 2406.00427), bounded from below."""

import torch
from torch import Tensor
from torch.nn import functional as F

from attention.functional.logits import at_least_float32, autocast_off


def diagonality_loss(
    scores: Tensor, margin: float = 0.0, valid: Tensor | None = None, parts: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """Pulls scores towards symmetry, and every token's score of itself above those of the others.

        L = u mean_{i,j} |A_ij - A_ji| + v mean_{i != j} max(0, A_ij - A_ii + margin)       scalar

    arXiv 2406.00427 asks for A_ij = A_ji and A_ii > A_ij. Its second term, sum_i ((N - 1) A_ii - sum_{j != i} A_ij), as
    it is printed lowers the diagonal when minimised and has no lower bound; this one has the wanted sign and ends at
    zero (assumption A13). Means instead of sums, over windows and heads too, make the value independent of N and of the
    batch; add it with a factor of 0.01 to 0.1 for every less-attention layer (the paper's is unknown). Computed in
    float32 or better.

    Args:
        scores: Scores before the softmax, (M, heads, N, N).
        margin: Least distance of A_ii to A_ij at which nothing is lost, in units of the scores.
        valid: Tokens that count, (M, N) booleans, or none for all; `attention.lavit.window_mask` gives those of a map
            that windows do not divide.
        parts: Weights u of the first part, symmetry, and v of the second, the diagonal, at least 0.

    Returns:
        The loss, a scalar of at least 0.
    """
    if scores.dim() != 4 or scores.shape[2] != scores.shape[3]:
        raise ValueError(f"scores of shape {tuple(scores.shape)} are no attention scores; give (M, heads, N, N)")
    if min(parts) < 0:
        raise ValueError(f"parts={tuple(parts)} would reward what they are against; give numbers of at least 0")
    symmetry, diagonal = parts
    with autocast_off(scores.device):
        scores = at_least_float32(scores)
        size = scores.shape[2]
        if valid is None:
            valid = torch.ones(1, size, dtype=torch.bool, device=scores.device)
        valid = valid.expand(scores.shape[0], size)
        pairs = (valid.unsqueeze(2) & valid.unsqueeze(1)).unsqueeze(1).to(scores.dtype)  # (M, 1, N, N)
        others = pairs * (1 - torch.eye(size, dtype=scores.dtype, device=scores.device))
        asymmetry = (scores - scores.transpose(2, 3)).abs()
        excess = F.relu(scores - scores.diagonal(dim1=2, dim2=3).unsqueeze(3) + margin)
        heads = scores.shape[1]
        first = (asymmetry * pairs).sum() / (heads * pairs.sum()).clamp(min=1)
        second = (excess * others).sum() / (heads * others.sum()).clamp(min=1)
        return symmetry * first + diagonal * second
