"""Attention along one axis of a map, and its channelized form (Huang et al., AAAI 2022, arXiv 2101.07434).

All tensors are (B, M, L, channels): M independent lines of L positions each. Columns of a map (B, C, H, W) are
`map.permute(0, 3, 2, 1)` and rows are `map.permute(0, 2, 3, 1)`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from attention.functional.logits.precision import precise_logits, products


def axial_attention(queries: Tensor, keys: Tensor, values: Tensor, groups: int = 1) -> Tensor:
    """Every position attends to its own line: softmax(q k^T) v, without a scale.

    Args:
        queries: (B, M, L, d).
        keys: (B, M, L, d).
        values: (B, M, L, C).
        groups: Parts of the queries whose weights exist at a time in evaluation.

    Returns:
        (B, M, L, C) in the values' precision; logits and softmax are computed in float32 or better.
    """
    if groups > 1:
        return torch.cat([axial_attention(part, keys, values) for part in queries.chunk(groups, 2)], 2)
    return products(axial_weights(queries, keys).to(values.dtype), values)


def axial_weights(queries: Tensor, keys: Tensor) -> Tensor:
    """Weights of axial attention, (B, M, L, L): what the position of axis 2 gives to that of axis 3."""
    return torch.softmax(precise_logits(queries, keys), -1)


def channelized_axial_attention(
    queries: Tensor, keys: Tensor, values: Tensor, gate: Callable[[Tensor], Tensor], groups: int = 1
) -> Tensor:
    """Axial attention whose single contributions are weighted per channel before they are summed.

        alpha_{j,i,m} = A_j(i, m) v_{j,m}                                   contribution of key m to query i in line j
        z_{j,i} = sum_m gate(mean_{j,m} alpha_{j,i,m}) * alpha_{j,i,m}

    The gate belongs to the position i along the line; neither the line j nor the key m enters it. So it leaves the sum,
    and its argument is the mean over lines of ordinary axial attention, divided by the number of keys L:

        z_i = gate(mean_j (A v)_i / L) * (A v)_i

    which is exact and needs no tensor of M L^2 C contributions.

    Args:
        queries: (B, M, L, d).
        keys: (B, M, L, d).
        values: (B, M, L, C).
        gate: Function of the pooled contributions (B, L, C) that returns weights of the same shape.
        groups: Parts of the queries whose weights exist at a time in evaluation.

    Returns:
        (B, M, L, C) in the values' precision.
    """
    attended = axial_attention(queries, keys, values, groups)
    # Mean over lines and keys, of what attention has summed over keys; a sum's gradient, unlike a mean's, is a view.
    pooled = attended.sum(1) / (values.shape[1] * values.shape[2])
    weights = gate(pooled).unsqueeze(1)
    # A fresh result of this size costs as much as the product, so where nothing is differentiated there is none.
    return attended * weights if torch.is_grad_enabled() else attended.mul_(weights)
