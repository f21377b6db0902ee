"""Pools of a map for gates, in the layout that the map has, and the gates' product with it.

A reduction whose result disagrees with the layout of its input is many times slower on a CPU (2 x 256 x 100 x 136, one
thread: `mean(3)` 1 ms contiguous, 44 ms channels_last).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from attention.functional.layout import is_channels_last

_LAST, _BACK = (0, 2, 3, 1), (0, 3, 1, 2)  # axes of a (B, C, H, W) map as channels_last has them, and the way back


def global_mean(x: Tensor) -> Tensor:
    """Mean over all positions, (B, C, H, W) -> (B, C, 1, 1)."""
    return mean(x, 2, 3)


def global_max(x: Tensor) -> Tensor:
    """Maximum over all positions, (B, C, H, W) -> (B, C, 1, 1); the first of equal cells gets the gradient."""
    return maximum(x, 2, 3)


def row_means(x: Tensor) -> Tensor:
    """Mean of every row, (B, C, H, W) -> (B, C, H)."""
    return mean(x, 3).squeeze(3)


def column_means(x: Tensor) -> Tensor:
    """Mean of every column, (B, C, H, W) -> (B, C, W)."""
    return mean(x, 2).squeeze(2)


def mean(x: Tensor, *axes: int) -> Tensor:
    """Mean of a map (B, C, H, W) over some axes, counted from 0, which stay with the size 1."""
    return _in_layout(lambda values, along: values.mean(along, keepdim=True), x, axes)


def total(x: Tensor, *axes: int) -> Tensor:
    """Sum of a map (B, C, H, W) over some axes, counted from 0, which stay with the size 1."""
    return _in_layout(lambda values, along: values.sum(along, keepdim=True), x, axes)


def maximum(x: Tensor, *axes: int) -> Tensor:
    """Maximum of a map (B, C, H, W) over axis 1, 2 or 3, or over axes 2 and 3, which stay with the size 1.

    The first of equal cells gets the gradient, as in published code; `amax`, which is faster, would divide it.
    """
    return _in_layout(_maximum, x, axes)


def _in_layout(reduce: Callable[[Tensor, tuple[int, ...]], Tensor], x: Tensor, axes: tuple[int, ...]) -> Tensor:
    if is_channels_last(x):
        return reduce(x.permute(_LAST), tuple(_LAST.index(axis) for axis in axes)).permute(_BACK)
    return reduce(x, axes)


def _maximum(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    if torch.compiler.is_exporting() or not torch.is_grad_enabled():
        return x.amax(axes, keepdim=True)
    top = x.flatten(axes[0], axes[-1]).max(axes[0], keepdim=True).values
    return top.unflatten(axes[0], [1] * len(axes))


def gated(x: Tensor, *gates: Tensor) -> Tensor:
    """Product of a map and gates that broadcast to it, in the map's precision, whatever autocast made of the gates."""
    for gate in gates:
        x = x * gate.to(x.dtype)
    return x
