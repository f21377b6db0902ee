"""What the hand-written gradients of gates and pools share: where they apply, layouts, pieces of a map.

Both work in pieces that stay in the processor's cache between their steps. Graphs that are recorded and the transforms
of `torch.func` get the plain expressions instead, and so do second derivatives.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

# Bytes of a map that one thread works on at a time: three such pieces fit into a second-level cache.
PIECE = 1 << 19

# Axes of a (B, C, H, W) map in the order in which they lie in memory, and the way back.
FIRST, LAST, BACK = (0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2)


def is_plain() -> bool:
    """Whether plain expressions are wanted: in graphs, where others would only hide them, and under transforms."""
    return torch.compiler.is_compiling() or is_exporting() or is_transforming()


def is_exporting() -> bool:
    """Whether a graph without gradients is being recorded."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def is_transforming() -> bool:
    """Whether this runs under a transform of `torch.func`, such as `vmap` or `grad`."""
    return torch._C._are_functorch_transforms_active()


def is_channels_last(x: Tensor) -> bool:
    """Whether channels lie side by side in memory, and not rows."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def learns(*tensors: Tensor) -> bool:
    """Whether somebody may want gradients; hand-written functions cost 0.2 ms, and are left out where nobody does."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def differentiable(
    expression: Callable[..., Tensor], inputs: Sequence[Tensor], wanted: Sequence[bool], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of a plain expression as a part of the graph, so that they can be differentiated again.

    Args:
        expression: Function of `inputs`.
        inputs: What it was called with, each with its own history.
        wanted: Which of the inputs need a gradient.
        gradient: Gradient of the result.

    Returns:
        For every input its gradient, or none where that is not wanted.
    """
    # One input may depend on another; aliases keep what flows through that from being counted here as well.
    aliases = [value.view_as(value) for value in inputs]
    chosen = [alias for alias, needed in zip(aliases, wanted, strict=True) if needed]
    found = iter(torch.autograd.grad(expression(*aliases), chosen, gradient, create_graph=True))
    return tuple(next(found) if needed else None for needed in wanted)


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
