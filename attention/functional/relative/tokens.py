"""Windowed attention with relative vectors in standard operators; see `relative` for the equation.

Blocks and windows are gathered by index tensors, and only sizes that do not depend on the map are split or merged, so
that exported programs hold for maps of any size.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from attention.functional.logits import precise_logits
from attention.functional.relative.windows import Windows

Tokens = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def tokens(
    queries: Tensor,
    keys_values: Tensor,
    rows: Tensor,
    columns: Tensor,
    heads: int,
    scale: float,
    windows: Windows,
) -> Tokens:
    """Arguments of `softmax` and `fused` from those of `relative_attention`.

    Returns:
        Scaled queries (M, i j, d), keys (M, h w, d) and values (M, h w, e) of M = B heads blocks, and the logits of the
        queries by row (M, i j, h) and by column (M, i j, w) of the key.
    """
    (height, width), (i, j) = keys_values.shape[2:], windows.queries
    q, kv = _flat(queries, heads), _flat(keys_values, heads)
    key_rows, key_columns = windows.keys(height, width, q.device)  # (down, h) and (right, w)
    if not windows.whole:
        down, right = windows.blocks(height, width)
        row, column = _rows_and_columns(down, right, q.device)
        key_rows, key_columns = key_rows[row], key_columns[column]  # (blocks, h) and (blocks, w)
        # Queries beyond the map are copies of those at its end; nobody asks for what they see.
        query_rows = (row.unsqueeze(1) * i + torch.arange(i, device=q.device)).clamp(max=queries.shape[2] - 1)
        query_columns = (column.unsqueeze(1) * j + torch.arange(j, device=q.device)).clamp(max=queries.shape[3] - 1)
        q = _gathered(q, query_rows, query_columns, queries.shape[3]).flatten(0, 1)
        kv = _gathered(kv, key_rows.clamp(0, height - 1), key_columns.clamp(0, width - 1), width)
        outside_rows = (key_rows < 0) | (key_rows >= height)
        outside_columns = (key_columns < 0) | (key_columns >= width)
        if not windows.masked:
            outside = outside_rows.unsqueeze(2) | outside_columns.unsqueeze(1)
            kv = kv.masked_fill(outside.flatten(1).unsqueeze(2), 0)
        kv = kv.flatten(0, 1)
    to_rows, to_columns = _relative_logits(q, rows, columns, windows)
    if windows.masked and not windows.whole:
        low = torch.finfo(to_rows.dtype).min / 4  # weights are exactly zero, yet sums stay finite
        numbers = (queries.shape[0] * heads, down * right)
        to_rows = to_rows.unflatten(0, numbers).masked_fill(outside_rows.unsqueeze(1), low).flatten(0, 1)
        to_columns = to_columns.unflatten(0, numbers).masked_fill(outside_columns.unsqueeze(1), low).flatten(0, 1)
    k, v = kv.split([q.shape[2], kv.shape[2] - q.shape[2]], 2)
    return q * scale, k, v, to_rows, to_columns


def softmax(q: Tensor, k: Tensor, to_rows: Tensor, to_columns: Tensor) -> Tensor:
    """Weights (M, i j, h w); products and softmax are computed in single precision at least."""
    content = precise_logits(q, k).unflatten(2, (to_rows.shape[2], to_columns.shape[2]))
    rows, columns = to_rows.to(content.dtype).unsqueeze(3), to_columns.to(content.dtype).unsqueeze(2)
    return (content + rows + columns).flatten(2).softmax(2)


def fused(q: Tensor, k: Tensor, v: Tensor, to_rows: Tensor, to_columns: Tensor, batch: int) -> Tensor:
    """Mixed values (M, i j, e), where M = batch blocks."""
    height, width = to_rows.shape[2], to_columns.shape[2]
    places = torch.arange(height * width, device=k.device).unsqueeze(1)
    row = places // width == torch.arange(height, device=k.device)  # one-hot, (h w, h)
    column = places % width == torch.arange(width, device=k.device)
    one_hot = torch.cat([row, column], 1).to(k.dtype).expand(k.shape[0], -1, -1)
    queries, keys = torch.cat([q, to_rows, to_columns], 2), torch.cat([k, one_hot], 2)
    # Kernels want vectors of multiples of 8, and CUDA at most 65535 images and heads: a block counts as a head.
    queries, keys, values = (
        F.pad(part, (0, -part.shape[2] % 8), value=0.0).to(v.dtype).unflatten(0, (batch, -1))
        for part in (queries, keys, v)
    )
    mixed = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
    return mixed.flatten(0, 1)[..., : v.shape[2]]


def in_order(values: Tensor, queries: Tensor, heads: int, windows: Windows) -> Tensor:
    """Something for every query of every block, (M, i j, .), in the order of the map: (B heads, H' W', .)."""
    if windows.whole:
        return values
    (height, width), (i, j), batch = queries.shape[2:], windows.queries, queries.shape[0] * heads
    down, right = windows.blocks(height * windows.stride, width * windows.stride)
    row, column = _rows_and_columns(height, width, values.device)
    index = (row // i * right + column // j) * (i * j) + row % i * j + column % j
    return values.unflatten(0, (batch, down * right)).flatten(1, 2).index_select(1, index)


def _flat(maps: Tensor, heads: int) -> Tensor:
    """A map (B, heads c, H, W) as (B heads, H W, c)."""
    return maps.reshape(maps.shape[0] * heads, maps.shape[1] // heads, -1).transpose(1, 2)


def _gathered(values: Tensor, rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """Values (B heads, H W, c) at rows (blocks, h) and columns (blocks, w), as (B heads, blocks, h w, c)."""
    index = (rows.unsqueeze(2) * width + columns.unsqueeze(1)).flatten(1)
    return values.index_select(1, index.flatten()).unflatten(1, index.shape)


def _relative_logits(q: Tensor, rows: Tensor, columns: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
    """Products of queries (M, i j, d) and the vectors of their keys' rows, (M, i j, h), and columns, (M, i j, w)."""
    logits = []
    in_block = _rows_and_columns(*windows.queries, q.device)
    for table, place, number, side in zip((rows, columns), in_block, windows.queries, windows.block, strict=True):
        first = windows.step * (number - 1 - place)
        entries = first.unsqueeze(1) + torch.arange(side + 2 * windows.halo, device=q.device)
        logits.append((q @ table.t()).gather(2, entries.expand(q.shape[0], -1, -1)))
    return logits[0], logits[1]


def _rows_and_columns(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of every cell of a grid in row-major order, (height width)."""
    place = torch.arange(height * width, device=device)
    row = place // width
    return row, place - row * width  # ONNX has no remainder by a size
