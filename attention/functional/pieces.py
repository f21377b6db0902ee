"""What the hand-written gradients of gates and pools share: layouts, and pieces of a map that stay in the cache."""

from collections.abc import Iterator

import torch
from torch import Tensor

# Bytes of a map that one thread works on at a time: three such pieces fit into a second-level cache.
PIECE = 1 << 19

# Axes of a (B, C, H, W) map in the order in which they lie in memory, and the way back.
FIRST, LAST, BACK = (0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2)


def is_channels_last(x: Tensor) -> bool:
    """Whether channels lie side by side in memory, and not rows."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def learns(*tensors: Tensor) -> bool:
    """Whether somebody may want gradients; hand-written functions cost 0.2 ms, and are left out where nobody does."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def pieces(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of the first two axes of a contiguous `x` that cover it in pieces of the size of a cache."""
    samples, planes = x.shape[:2]
    size = x.numel() * x.element_size()
    if not x.is_cpu or not size:  # elsewhere starting a kernel costs more than a cache saves
        yield slice(None), slice(None)
        return
    count = -(-size // (PIECE * torch.get_num_threads()))
    per_piece = max(1, samples * planes // count)  # planes
    if per_piece >= planes:
        step = per_piece // planes
        for start in range(0, samples, step):
            yield slice(start, start + step), slice(None)
        return
    for sample in range(samples):
        for start in range(0, planes, per_piece):
            yield slice(sample, sample + 1), slice(start, start + per_piece)


def piece_of(gate: Tensor, piece: tuple[slice, slice]) -> Tensor:
    """The part of a gate that belongs to a piece of the map."""
    samples, planes = piece
    return gate[samples, planes if gate.shape[1] > 1 else slice(None)]
