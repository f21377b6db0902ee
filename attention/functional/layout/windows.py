"""Windows: maps cut into squares that do not overlap, and put together again, in forms that export for any size."""

import torch
from torch import Tensor
from torch.nn import functional as F

from attention.functional.layout.formats import in_format_of, is_channels_last


def split_windows(x: Tensor, window: int, before: int = 0, fill: float | None = None) -> Tensor:
    """Cuts a map into windows, filled up where it does not reach.

    Args:
        x: A map (B, C, H, W).
        window: Side w of a window in cells.
        before: Cells that the first window of each row and column lies outside the map, 0 to w - 1.
        fill: Value of the cells around the map; none where it must not matter.

    Returns:
        Windows (B R S, w^2, C), R = ceil((before + H) / w) rows of S = ceil((before + W) / w).
    """
    batch, channels, height, width = x.shape
    rows, columns = (before + height + window - 1) // window, (before + width + window - 1) // window
    below, right = rows * window - height - before, columns * window - width - before
    if not fills_windows(x, window, before):  # to pad by nothing is a copy
        x = F.pad(x, (before, right, before, below), value=fill)
    split = x.reshape(batch, channels, rows, window, columns, window)
    return split.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2)


def merge_windows(tokens: Tensor, x: Tensor, window: int, before: int = 0) -> Tensor:
    """Puts windows (B R S, w^2, C) back in the place of a map (B, ., H, W), whose size and memory format they take."""
    batch, _, height, width = x.shape
    rows, columns = (before + height + window - 1) // window, (before + width + window - 1) // window
    if not torch.compiler.is_exporting():
        by_row = tokens.reshape(batch, rows, columns, window, window, -1).transpose(2, 3)
        if is_channels_last(x):
            merged = by_row.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
        else:
            merged = by_row.permute(0, 5, 1, 2, 3, 4).flatten(4, 5).flatten(2, 3)
        return in_format_of(x, merged[:, :, before : before + height, before : before + width])
    cells = tokens.reshape(batch, rows, columns, window**2, tokens.shape[2]).permute(0, 4, 3, 1, 2)
    merged = F.pixel_shuffle(cells.flatten(1, 2), window)  # exports for any size, which a reshape does not
    below, right = rows * window - height - before, columns * window - width - before
    return in_format_of(x, F.pad(merged, (-before, -right, -before, -below)))


def fills_windows(x: Tensor, window: int, before: int = 0) -> bool:
    """Whether the windows of a map (B, C, H, W) have no cell outside it; never said to exporters, who take any size."""
    return not (torch.compiler.is_exporting() or before or x.shape[2] % window or x.shape[3] % window)


def window_mask(x: Tensor, window: int, before: int = 0) -> Tensor:
    """Which tokens of the windows of a map (B, C, H, W) lie inside it, (B R S, w^2); every window has some."""
    inside = torch.ones_like(x[:, :1], dtype=torch.bool)
    return split_windows(inside, window, before, 0).squeeze(2)
