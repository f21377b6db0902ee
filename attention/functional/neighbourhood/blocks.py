"""Neighbourhood sums and products on a CPU, as matrix products of small blocks.

The queries of a 4 x 4 block see one window of positions together (10 x 10 for k = 7). Their weights, written along the
diagonals of a matrix (16, 100) of zeros, turn the weighted sum into a matrix product; the matrix of all 16 x 100 inner
products, read along its diagonals, holds the products that are wanted. That is twice the arithmetic, but in the
processor's fastest loop, and far faster than unfolding. Blocks are handled in groups whose temporaries stay in the
second-level cache, so nothing large is allocated beside the output.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_SIDE = 4  # of a block of queries; 2 and 8 are slower at k = 7
_GROUP = 128  # blocks per matrix product: about 2 MB of temporaries for 32 channels


def weighted_sum(weights: Tensor, values: Tensor, out: Tensor, stride: int, dilation: int) -> None:
    """Writes the `neighbourhood_sum` of weights (B, H', W', heads, k k) and values (B, H, W, heads, c) into `out`."""
    if stride == 1 and dilation > 1:
        for part in _parts(out, dilation):
            weighted_sum(weights[part], values[part], out[part], 1, 1)
        return
    kernel_size = round(weights.shape[-1] ** 0.5)
    weights = weights.unflatten(-1, (kernel_size, kernel_size))
    blocks = _Blocks(out.shape, values, kernel_size, stride, dilation)
    for image in range(len(weights)):
        for heads in blocks.head_groups():
            blocks.sum(weights[image, :, :, heads], values[image, :, :, heads], out[image, :, :, heads])


def inner_products(queries: Tensor, keys: Tensor, out: Tensor, kernel_size: int, stride: int, dilation: int) -> None:
    """Writes the `neighbourhood_products` of queries (B, H', W', heads, c) and keys (B, H, W, heads, c) into `out`."""
    if stride == 1 and dilation > 1:
        for part in _parts(out, dilation):
            inner_products(queries[part], keys[part], out[part], kernel_size, 1, 1)
        return
    out = out.unflatten(-1, (kernel_size, kernel_size))
    blocks = _Blocks(out.shape, keys, kernel_size, stride, dilation)
    for image in range(len(queries)):
        for heads in blocks.head_groups():
            blocks.products(queries[image, :, :, heads], keys[image, :, :, heads], out[image, :, :, heads])


def scatter(weights: Tensor, queries: Tensor, out: Tensor, stride: int, dilation: int) -> None:
    """Writes the `neighbourhood_scatter` of weights (B, H', W', heads, k k) and queries (B, H', W', heads, c).

    A position receives from the queries around it: it is a weighted sum whose weights are those of the other side,
    which a view of the padded weights gives without a copy.
    """
    if stride == 1 and dilation > 1:
        for part in _parts(out, dilation):
            scatter(weights[part], queries[part], out[part], 1, 1)
        return
    kernel_size = round(weights.shape[-1] ** 0.5)
    weights = weights.unflatten(-1, (kernel_size, kernel_size))
    height, width = out.shape[1:3]
    reach = dilation * (kernel_size // 2)
    if stride > 1:  # queries between the real ones give nothing
        spread = queries.new_zeros(out.shape)
        spread[:, ::stride, ::stride] = queries
        queries = spread
    blocks = _Blocks(out.shape, queries, kernel_size, 1, dilation)
    padded = weights.new_zeros(height + 2 * reach, width + 2 * reach, blocks.heads, kernel_size, kernel_size)
    inside = padded[reach : reach + height : stride, reach : reach + width : stride]
    rows, columns, head, down, across = padded.stride()
    # received[i, j, h, a, b] is the weight that the query at cell (a, b) around (i, j) has for its cell (k-1-a, k-1-b).
    received = padded.as_strided(
        (height, width, *padded.shape[2:]),
        (rows, columns, head, dilation * rows - down, dilation * columns - across),
        (kernel_size - 1) * (down + across),
    )
    for image in range(len(weights)):
        for heads in blocks.head_groups():
            count = heads.stop - heads.start
            inside[:, :, :count] = weights[image, :, :, heads]
            blocks.sum(received[:, :, :count], queries[image, :, :, heads], out[image, :, :, heads])


def _parts(out: Tensor, dilation: int) -> Iterator[tuple[slice, slice, slice]]:
    """Parts of a map (B, H, W, ...) that see each other alone, every dilation-th row and column.

    Neighbours lie side by side in them. The window of a block would grow with the square of the dilation otherwise,
    nearly all of it unseen.
    """
    for row in range(min(dilation, out.shape[1])):
        for column in range(min(dilation, out.shape[2])):
            yield slice(None), slice(row, None, dilation), slice(column, None, dilation)


class _Blocks:
    """Blocks of 4 x 4 queries of some heads of one image, the windows that they see, and buffers for a group of them.

    Buffers are made once and reused for every image and head: fresh memory costs more than what is done in it.

    Args:
        queries: Shape (B, H', W', heads, ...) of the queries.
        values: Values (B, H, W, heads, c) of the positions; only shape and kind count here.
        kernel_size: Side k of a neighbourhood, odd.
        stride: Distance between queries in cells of the map.
        dilation: Distance between the cells of a neighbourhood.
    """

    def __init__(self, queries: Sequence[int], values: Tensor, kernel_size: int, stride: int, dilation: int) -> None:
        _, self.height, self.width, self.all_heads, *_ = queries
        self.stride, self.reach = stride, dilation * (kernel_size // 2)
        self.window = window = (_SIDE - 1) * stride + (kernel_size - 1) * dilation + 1
        down, self.across = -(-self.height // _SIDE), -(-self.width // _SIDE)
        self.heads = min(self.all_heads, max(1, _GROUP // (down * self.across)))  # heads in a group
        self.down = min(down, max(1, _GROUP // self.across))  # block rows in a group: all, where heads are several
        step, channels = _SIDE * stride, values.shape[4]
        self.padded = values.new_zeros(
            self.heads, (down - 1) * step + window, (self.across - 1) * step + window, channels
        )
        self.windows = values.new_empty(self.heads, self.down, self.across, window, window, channels)
        self.matrices = values.new_zeros(self.heads, self.down, self.across, _SIDE**2, window**2)
        head, row, column, query, cell = self.matrices.stride()
        # Element (i, j, a, b) stands in the row of query (i, j) and in the column of its cell (a, b) in the window.
        self.diagonals = self.matrices.as_strided(
            (*self.matrices.shape[:3], _SIDE, _SIDE, kernel_size, kernel_size),
            (
                *(head, row, column),
                *(_SIDE * query + stride * window * cell, query + stride * cell),
                *(dilation * window * cell, dilation * cell),
            ),
        )

    def head_groups(self) -> Iterator[slice]:
        """Heads that are handled together: several where one has few blocks."""
        for first in range(0, self.all_heads, self.heads):
            yield slice(first, min(first + self.heads, self.all_heads))

    def sum(self, weights: Tensor, values: Tensor, out: Tensor) -> None:
        """Weights (H', W', heads, k, k), values (H, W, heads, c), out (H', W', heads, c)."""
        self._load(values)
        for rows, group in self._row_groups(len(values[0, 0])):
            self.diagonals[group].copy_(_split(weights[rows]))
            product = self.matrices[group].flatten(0, 2) @ self._windows(rows, group)
            self._store(product.unflatten(1, (_SIDE, _SIDE)), out[rows])

    def products(self, queries: Tensor, keys: Tensor, out: Tensor) -> None:
        """Queries (H', W', heads, c), keys (H, W, heads, c), out (H', W', heads, k, k)."""
        self._load(keys)
        for rows, group in self._row_groups(len(keys[0, 0])):
            left = _split(queries[rows]).flatten(3, 4).flatten(0, 2)  # (blocks, 16, c)
            torch.bmm(left, self._windows(rows, group).mT, out=self.matrices[group].flatten(0, 2))
            self._store(self.diagonals[group].flatten(0, 2), out[rows])

    def _load(self, values: Tensor) -> None:
        """Copies values (H, W, heads, c) between the zeros of the buffer; cells that no query sees may be cut off."""
        inside = self.padded[: values.shape[2], self.reach :, self.reach :][:, : values.shape[0], : values.shape[1]]
        inside.copy_(values.permute(2, 0, 1, 3)[:, : inside.shape[1], : inside.shape[2]])

    def _row_groups(self, heads: int) -> Iterator[tuple[slice, tuple[slice, slice]]]:
        """Rows of queries, group after group, with the part of the buffers, heads and block rows, that they fill.

        That part is contiguous: only groups of a single head have several groups of rows.
        """
        for first in range(0, self.height, self.down * _SIDE):
            rows = slice(first, min(first + self.down * _SIDE, self.height))
            yield rows, (slice(0, heads), slice(0, -(-(rows.stop - rows.start) // _SIDE)))

    def _windows(self, rows: slice, group: tuple[slice, slice]) -> Tensor:
        """Values of the windows of all blocks of these rows, (blocks, window^2, c)."""
        head, row, column, channel = self.padded.stride()
        windows, step = self.windows[group], _SIDE * self.stride
        strides = (head, step * row, step * column, row, column, channel)
        windows.copy_(self.padded.as_strided(windows.shape, strides, rows.start * self.stride * row))
        return windows.flatten(3, 4).flatten(0, 2)

    def _store(self, blocks: Tensor, out: Tensor) -> None:
        """Writes blocks (blocks, 4, 4, ...) into the rows of queries that they cover, `out` (n, W', heads, ...)."""
        blocks = blocks.unflatten(0, (out.shape[2], -1, self.across))
        if out.shape[0] % _SIDE or out.shape[1] % _SIDE:
            rows = blocks.transpose(2, 3).flatten(3, 4).flatten(1, 2)
            out.copy_(rows[:, : out.shape[0], : out.shape[1]].movedim(0, 2))
        else:
            _split(out).copy_(blocks)


def _split(rows: Tensor) -> Tensor:
    """Rows of queries (n, W', heads, ...) as blocks (heads, block rows, across, 4, 4, ...), zeros where they end."""
    missing = (-rows.shape[0] % _SIDE, -rows.shape[1] % _SIDE)
    if any(missing):
        rows = F.pad(rows, (*(0, 0) * (rows.dim() - 2), 0, missing[1], 0, missing[0]))
    return rows.unflatten(1, (-1, _SIDE)).unflatten(0, (-1, _SIDE)).movedim(4, 0).transpose(2, 3)
