"""Memory formats: operators compute in the one that is fast for them and answer in the one they were given.

Exported programs have no memory formats, and asking for one would tie them to sizes; there, these functions do nothing.
"""

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of a position lie side by side in memory, and the columns of a row do not."""
    if torch.compiler.is_exporting():
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def channels_last(x: Tensor) -> Tensor:
    """The map (B, C, H, W) with the channels of a position side by side in memory."""
    return x if torch.compiler.is_exporting() else x.contiguous(memory_format=torch.channels_last)


def in_format_of(x: Tensor, out: Tensor) -> Tensor:
    """The map `out` in the memory format of the map `x`."""
    if torch.compiler.is_exporting():
        return out
    return out.contiguous(memory_format=torch.channels_last if is_channels_last(x) else torch.contiguous_format)
