"""When a function with gradients of its own steps back for plain PyTorch.

Exporters know only standard operators, and `torch.func`, forward-mode derivatives and second derivatives ask for rules
that a hand-written backward pass does not have: without these questions they would fail, or give zeros in silence.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

STORED_WEIGHTS = 1 << 25
"""Weights of one attention, of all images and heads, that are stored for the backward pass: 128 MiB in float32.

Up to here plain softmax attention is faster on a CPU than what computes its weights twice (training 1.3 to 2 times, on
an Intel Xeon at 2.5 GHz with AVX-512 and an allocator that keeps freed memory); beyond, memory counts.
"""


def is_plain() -> bool:
    """Whether only a plain expression will do: in compiled graphs, which fuse it themselves, and as below."""
    return torch.compiler.is_compiling() or in_standard_operators()


def in_standard_operators() -> bool:
    """Whether operators of our own are unknown to whoever asks: an exporter, or a transform of `torch.func`."""
    return is_exporting() or is_transforming()


def may_store(weights: int) -> bool:
    """Whether so many weights of attention are few enough to be stored; never in graphs, which hold for any size."""
    return not is_plain() and weights <= STORED_WEIGHTS


def is_exporting() -> bool:
    """Whether a graph is being recorded for another runtime."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def is_transforming() -> bool:
    """Whether this runs under a transform of `torch.func`, such as `vmap` or `grad`, or in forward mode."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def differentiable(
    expression: Callable[..., Tensor], inputs: Sequence[Tensor], wanted: Sequence[bool], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of a plain expression as a part of the graph, so that they can be differentiated again.

    A backward pass calls it where gradients are enabled: `once_differentiable` refuses only where the gradient that is
    handed in has a graph, and otherwise gives second derivatives that lack a term.

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
