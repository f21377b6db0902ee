"""Windowed attention with relative vectors on a CPU, a few windows at a time; see `relative` for the equation.

What makes attention slow on a CPU is memory traffic, most of all fresh temporaries of the size of all windows or logits
(2 x 256 x 104 x 136, 8 heads, 14 x 14 windows: 177 MB each). This goes through the map in chunks whose logits stay in
the cache; both passes compute them from the maps of queries, keys and values, which is all that is kept for the
backward pass besides the result.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from attention.functional.relative.windows import Windows

LOGITS = 2**18  # of one chunk: 1 MB, so that they stay in a core's second-level cache


@dataclass(frozen=True)
class _Strip:
    """A row of windows of one image in some heads."""

    image: int
    heads: slice
    row: int  # of windows


class _Plan:
    """Sizes of one call, and the copies between maps and chunks; all chunks are contiguous and of type `dtype`."""

    def __init__(self, queries: Tensor, keys_values: Tensor, tables: Tensor, heads: int, windows: Windows) -> None:
        self.windows, self.heads = windows, heads
        self.dtype = torch.float64 if queries.dtype == torch.float64 else torch.float32
        self.channels = tables.shape[1]
        self.height, self.width = keys_values.shape[2:]
        self.rows = windows.entries[0]  # of the joint table that belong to row offsets
        (down, across), halo = windows.block, windows.halo
        self.window = (down + 2 * halo, across + 2 * halo)
        self.keys = self.window[0] * self.window[1]
        self.sides, self.blocks = windows.queries, windows.blocks(self.height, self.width)
        per_row = self.blocks[1] * self.sides[1] * self.keys  # logits of one row of queries in one head
        self.heads_at_once = min(heads, max(1, LOGITS // (per_row * self.sides[0])))
        self.rows_at_once = min(self.sides[0], max(1, LOGITS // (per_row * self.heads_at_once)))
        self.images = queries.shape[0]

    def strips(self) -> Iterator[_Strip]:
        """All rows of windows."""
        for image in range(self.images):
            for row in range(self.blocks[0]):
                for first in range(0, self.heads, self.heads_at_once):
                    yield _Strip(image, slice(first, min(first + self.heads_at_once, self.heads)), row)

    def query_rows(self) -> Iterator[tuple[int, int]]:
        """First row and number of rows of queries within a block, chunk by chunk."""
        for first in range(0, self.sides[0], self.rows_at_once):
            yield first, min(self.rows_at_once, self.sides[0] - first)

    def per_query(self, values: Tensor, strip: _Strip, first: int, count: int) -> Tensor:
        """Rows of a map (B, heads c, H', W') as (windows, queries, c)."""
        top = strip.row * self.sides[0] + first
        part = values.unflatten(1, (self.heads, -1))[strip.image, strip.heads, :, top : top + count].to(self.dtype)
        width = self.blocks[1] * self.sides[1]
        if part.shape[2] < count or part.shape[3] < width:
            part = F.pad(part, (0, width - part.shape[3], 0, count - part.shape[2]))
        part = part.unflatten(3, (self.blocks[1], self.sides[1])).permute(0, 3, 2, 4, 1)
        return part.reshape(-1, count * self.sides[1], values.shape[1] // self.heads)

    def write_queries(self, values: Tensor, into: Tensor, strip: _Strip, first: int, count: int) -> None:
        """The opposite of `per_query`; what lies beyond the map is dropped."""
        top = strip.row * self.sides[0] + first
        target = into.unflatten(1, (self.heads, -1))[strip.image, strip.heads, :, top : top + count]
        part = values.view(target.shape[0], self.blocks[1], count, self.sides[1], -1).permute(0, 4, 2, 1, 3)
        if target.shape[3] < self.blocks[1] * self.sides[1]:
            target.copy_(part.flatten(3, 4)[:, :, : target.shape[2], : target.shape[3]])
        else:
            target.unflatten(3, (self.blocks[1], self.sides[1])).copy_(part[:, :, : target.shape[2]])

    def margins(self, strip: _Strip) -> tuple[int, int]:
        """Rows of a strip of windows that lie above and below the map."""
        top = strip.row * self.windows.block[0] - self.windows.halo
        return max(0, -top), max(0, top + self.window[0] - self.height)

    def per_window(self, maps: Tensor, into: Tensor, strip: _Strip) -> None:
        """Copies windows of a map (B, heads c, H, W) to (windows, c, keys); `into` may be part of a larger tensor."""
        (above, below), halo, across = self.margins(strip), self.windows.halo, self.windows.block[1]
        top = strip.row * self.windows.block[0] - halo
        part = maps.unflatten(1, (self.heads, -1))[
            strip.image, strip.heads, :, top + above : top + self.window[0] - below
        ]
        end = (self.blocks[1] - 1) * across + self.window[1] - halo - self.width
        if halo or end or below:
            value = None if self.windows.masked else 0.0  # without mask the zeros are keys
            part = F.pad(part, (halo, end, above, below), value=value)
        part = part.unfold(3, self.window[1], across).permute(0, 3, 1, 2, 4)  # (heads, across, c, h, w)
        into.view(part.shape).copy_(part)

    def add_windows(self, windows: Tensor, into: Tensor, strip: _Strip) -> None:
        """Adds windows (windows, c, keys) to the map they were taken from."""
        (above, below), halo, across = self.margins(strip), self.windows.halo, self.windows.block[1]
        top = strip.row * self.windows.block[0] - halo
        target = into.unflatten(1, (self.heads, -1))[
            strip.image, strip.heads, :, top + above : top + self.window[0] - below
        ]
        windows = windows.view(target.shape[0], self.blocks[1], target.shape[1], *self.window).permute(0, 2, 3, 1, 4)
        blocks = -(-self.window[1] // across)  # that a window overlaps
        total = windows.new_zeros(*windows.shape[:3], self.blocks[1] + blocks - 1, across)
        for number in range(blocks):
            part = windows[..., number * across : (number + 1) * across]
            total[:, :, :, number : number + self.blocks[1], : part.shape[-1]] += part
        target += total.flatten(3)[:, :, above : self.window[0] - below, halo : halo + self.width]

    def diagonals(self, products: Tensor, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Views of products with all tables, (windows queries, entries): per query those with its rows and columns."""
        entries, step, (height, width) = products.shape[1], self.windows.step, self.window
        i, j = self.sides
        number = products.shape[0] // (count * j)
        line, plane = j * entries, count * j * entries
        rows = products.as_strided((number, count, j, height), (plane, line - step, entries, 1), step * (i - 1 - first))
        columns = products.as_strided(
            (number, count, j, width), (plane, line, entries - step, 1), self.rows + step * (j - 1)
        )
        return rows, columns

    def weights(
        self, queries: Tensor, keys: Tensor, tables: Tensor, scale: float, strip: _Strip, first: int, count: int
    ) -> Tensor:
        """Attention weights (windows, queries, keys) of a chunk."""
        rows, columns = self.diagonals(queries.flatten(0, 1) @ tables.t(), first, count)
        logits = queries.new_empty(*queries.shape[:2], self.keys)
        by_place = logits.view(*rows.shape[:3], *self.window)
        torch.add(rows.unsqueeze(-1), columns.unsqueeze(-2), out=by_place)
        torch.baddbmm(logits, queries, keys, alpha=scale, out=logits)
        if self.windows.masked:
            self.mask(by_place, strip)
        return torch.softmax(logits, -1, out=logits)

    def mask(self, logits: Tensor, strip: _Strip) -> None:
        """Sets the logits (windows, i, j, h, w) of keys outside the map to minus infinity."""
        above, below = self.margins(strip)
        logits[..., :above, :] = -torch.inf
        logits[..., self.window[0] - below :, :] = -torch.inf
        by_column = logits.unflatten(0, (-1, self.blocks[1]))
        for column in range(self.blocks[1]):
            left = column * self.windows.block[1] - self.windows.halo
            by_column[:, column, ..., : max(0, -left)] = -torch.inf
            by_column[:, column, ..., max(0, self.width - left) :] = -torch.inf


def new_output(queries: Tensor, keys_values: Tensor) -> Tensor:
    """An empty map (B, heads e, H', W') in the layout of the queries."""
    last = queries.is_contiguous(memory_format=torch.channels_last) and not queries.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    size = (queries.shape[0], keys_values.shape[1] - queries.shape[1], queries.shape[2], queries.shape[3])
    return torch.empty(size, dtype=keys_values.dtype, device=queries.device, memory_format=layout)


def forward(queries: Tensor, keys_values: Tensor, tables: Tensor, heads: int, scale: float, windows: Windows) -> Tensor:
    """`relative_attention` with both tables joined; half precision is computed in single precision."""
    plan = _Plan(queries, keys_values, tables, heads, windows)
    channels, wide = plan.channels, tables.to(plan.dtype)
    out = new_output(queries, keys_values)
    with torch.autocast("cpu", enabled=False):
        for strip in plan.strips():
            number = (strip.heads.stop - strip.heads.start) * plan.blocks[1]
            kv = wide.new_empty(number, keys_values.shape[1] // heads, plan.keys)
            plan.per_window(keys_values, kv, strip)
            for first, count in plan.query_rows():
                q = plan.per_query(queries, strip, first, count)
                weights = plan.weights(q, kv[:, :channels], wide, scale, strip, first, count)
                mixed = torch.bmm(weights, kv[:, channels:].transpose(1, 2))
                plan.write_queries(mixed, out, strip, first, count)
    return out


def backward(
    gradient: Tensor,
    out: Tensor,
    queries: Tensor,
    keys_values: Tensor,
    tables: Tensor,
    heads: int,
    scale: float,
    windows: Windows,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, and tables, from that of the result and the result."""
    plan = _Plan(queries, keys_values, tables, heads, windows)
    channels, (height, width), wide = plan.channels, plan.window, tables.to(plan.dtype)
    places = height + width
    # Behind logits = content + row + column are products with keys and with their one-hot rows and columns.
    buffer = wide.new_empty(plan.heads_at_once * plan.blocks[1], places + keys_values.shape[1] // heads, plan.keys)
    buffer[:, :height] = torch.eye(height, dtype=plan.dtype).repeat_interleave(width, 1)
    buffer[:, height:places] = torch.eye(width, dtype=plan.dtype).repeat(1, height)
    of_queries = torch.empty_like(queries)
    of_maps = torch.zeros_like(keys_values, dtype=plan.dtype)
    of_tables = torch.zeros_like(wide)
    with torch.autocast("cpu", enabled=False):
        for strip in plan.strips():
            extended = buffer[: (strip.heads.stop - strip.heads.start) * plan.blocks[1]]
            plan.per_window(keys_values, extended[:, places:], strip)
            keys, values = extended[:, places : places + channels], extended[:, places + channels :]
            of_windows = torch.zeros_like(extended[:, places:], memory_format=torch.contiguous_format)
            of_keys, of_values = of_windows[:, :channels], of_windows[:, channels:]
            for first, count in plan.query_rows():
                q = plan.per_query(queries, strip, first, count)
                weights = plan.weights(q, keys, wide, scale, strip, first, count)
                of_mixed = plan.per_query(gradient, strip, first, count)
                torch.baddbmm(of_values, of_mixed.transpose(1, 2), weights, out=of_values)
                mean = (of_mixed * plan.per_query(out, strip, first, count)).sum(2, keepdim=True)
                of_logits = torch.baddbmm(mean.expand_as(weights), of_mixed, values, beta=-1).mul_(weights)
                torch.baddbmm(of_keys, q.transpose(1, 2), of_logits, alpha=scale, out=of_keys)
                of_extended = torch.bmm(of_logits, extended[:, : places + channels].transpose(1, 2))
                of_rows, of_columns, of_content = of_extended.split([height, width, channels], 2)
                products = wide.new_zeros(q.shape[0] * q.shape[1], wide.shape[0])
                rows, columns = plan.diagonals(products, first, count)
                rows.copy_(of_rows.view(rows.shape))
                columns.copy_(of_columns.view(columns.shape))
                flat = q.flatten(0, 1)
                torch.addmm(of_tables, products.t(), flat, out=of_tables)
                of_flat = torch.addmm(of_content.reshape(flat.shape), products, wide, beta=scale)
                plan.write_queries(of_flat, of_queries, strip, first, count)
            plan.add_windows(of_windows, of_maps, strip)
    return of_queries, of_maps.to(keys_values.dtype), of_tables.to(tables.dtype)
