"""Softmax attention of blocks of queries to windows of keys, with relative row and column vectors.

With (i, j) the place of a query in its block and (a, b) the place of a key in the block's window, per image and head

    l[ij, ab] = scale <q_ij, k_ab> + <q_ij, rows[a - step i + c_h]> + <q_ij, columns[b - step j + c_w]>
    y_ij = sum_ab softmax_ab(l)[ij, ab] v_ab                c = step (queries per block side - 1): entries from zero on

Halo attention is this with square blocks; global attention (BoTNet, attention augmented convolution) is one block as
large as the map. Three implementations of the same function exist:

    softmax   anywhere: standard operators (`tokens`), also what is exported; the only one that has the
              weights, and on a CPU the fastest where they are few (`plain.STORED_WEIGHTS`)
    chunks    CPU: a few windows at a time, both directions (`chunks`); nothing of the size of the logits or of
              all windows is ever stored. An operator of PyTorch, so that `torch.compile` takes it as it is
    fused     CUDA, not measured: relative logits become dimensions of queries and keys, [scale q, <q, rows>,
              <q, columns>] and [k, one-hot a, one-hot b], so that `scaled_dot_product_attention` needs no bias tensor

Exported programs are for maps of more than one block in either direction: declare such a range of sizes.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from attention.functional.plain import in_standard_operators, may_store
from attention.functional.relative import chunks, tokens
from attention.functional.relative.windows import Windows

Implementation = Literal["auto", "chunks", "fused", "softmax"]
Scaling = Literal["none", "content", "both"]


class RelativeTables(nn.Module):
    """One vector per row offset and one per column offset, shared by heads.

    Args:
        rows: Number of row offsets.
        columns: Number of column offsets.
        channels: Size of a vector.
        deviation: Standard deviation at the start.
    """

    position_tables = ("height_rel", "width_rel")

    def __init__(self, rows: int, columns: int, channels: int, deviation: float) -> None:
        super().__init__()
        self.height_rel = nn.Parameter(torch.empty(rows, channels))
        self.width_rel = nn.Parameter(torch.empty(columns, channels))
        for table in (self.height_rel, self.width_rel):
            nn.init.normal_(table, std=deviation)

    def for_grid(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Vectors of the offsets -(size - 1)..size - 1 of a map of another size than the tables' grid.

        The middle entry of a table is offset 0. A smaller map takes the entries around it; offsets beyond a table take
        its ends (Shaw et al., arXiv 1803.02155, equation 4).
        """
        vectors = []
        for table, size in ((self.height_rel, height), (self.width_rel, width)):
            reach = table.shape[0] // 2
            offsets = torch.arange(1 - size, size, device=table.device)
            vectors.append(table[offsets.clamp(-reach, reach) + reach])
        return vectors[0], vectors[1]


def relative_attention(
    queries: Tensor,
    keys_values: Tensor,
    rows: Tensor,
    columns: Tensor,
    heads: int,
    scale: float,
    windows: Windows,
    implementation: Implementation = "auto",
) -> Tensor:
    """Attention as in the module's docstring.

    Args:
        queries: Queries (B, heads d, H', W') with H' = ceil(H / stride).
        keys_values: Keys and values of every head, (B, heads (d + e), H, W): per head first d, then e channels.
        rows: Vectors by row offset, as many as `windows.entries` says, (., d).
        columns: Vectors by column offset, (., d).
        heads: Number of heads.
        scale: Factor of <q, k>.
        windows: Which keys a query sees.
        implementation: See the module's docstring; `auto` takes the fastest.

    Returns:
        Mixed values (B, heads e, H', W'), in the type of `keys_values`.
    """
    if implementation == "auto":
        implementation = "fused" if queries.is_cuda else "softmax"
        if queries.device.type == "cpu" and not in_standard_operators():
            implementation = "softmax" if may_store(_logits(queries, keys_values, heads, windows)) else "chunks"
    if implementation == "chunks":
        return _attention(queries, keys_values, torch.cat([rows, columns]), heads, scale, *windows.arguments())
    q, k, v, to_rows, to_columns = tokens.tokens(queries, keys_values, rows, columns, heads, scale, windows)
    if implementation == "fused":
        mixed = tokens.fused(q, k, v, to_rows, to_columns, queries.shape[0] * heads)
    else:
        mixed = tokens.softmax(q, k, to_rows, to_columns).to(v.dtype) @ v
    return (
        tokens.in_order(mixed, queries, heads, windows)
        .transpose(1, 2)
        .reshape(queries.shape[0], -1, *queries.shape[2:])
    )


def relative_attention_with_weights(
    queries: Tensor, keys_values: Tensor, rows: Tensor, columns: Tensor, heads: int, scale: float, windows: Windows
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `relative_attention` returns, and weights (B, heads, H', W', h, w) with the tables of `AttentionMap`."""
    q, k, v, to_rows, to_columns = tokens.tokens(queries, keys_values, rows, columns, heads, scale, windows)
    weights = tokens.softmax(q, k, to_rows, to_columns).to(v.dtype)
    (batch, _, height, width), (i, j) = queries.shape, windows.queries
    mixed = tokens.in_order(weights @ v, queries, heads, windows).transpose(1, 2)
    weights = tokens.in_order(weights, queries, heads, windows)
    key_rows, key_columns = windows.keys(keys_values.shape[2], keys_values.shape[3], queries.device)
    return (
        mixed.reshape(batch, -1, height, width),
        weights.reshape(batch, heads, height, width, key_rows.shape[1], key_columns.shape[1]),
        key_rows.repeat_interleave(i, 0)[:height],
        key_columns.repeat_interleave(j, 0)[:width],
    )


def _logits(queries: Tensor, keys_values: Tensor, heads: int, windows: Windows) -> int:
    """Number of logits, of queries that fill the last blocks as well."""
    down, right = windows.blocks(*keys_values.shape[2:])
    keys = (windows.block[0] + 2 * windows.halo) * (windows.block[1] + 2 * windows.halo)
    return queries.shape[0] * heads * down * right * windows.queries[0] * windows.queries[1] * keys


def join_heads(keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Keys (B, heads d, H, W) and values (B, heads e, H, W) as one map with the channels of every head side by side."""
    pairs = zip(keys.chunk(heads, 1), values.chunk(heads, 1), strict=True)
    return torch.cat([part for pair in pairs for part in pair], 1)


def check_heads(heads: int, **channels: int) -> None:
    """Raises `ValueError` naming the first of `channels` that is no positive multiple of `heads`."""
    for name, value in channels.items():
        if value < 1 or value % heads:
            raise ValueError(f"{name}={value} is no multiple of {heads}; give e.g. {max(1, value // heads) * heads}")


@torch.library.custom_op("attndense::relative_attention", mutates_args=(), device_types="cpu")
def _attention(
    queries: Tensor,
    keys_values: Tensor,
    tables: Tensor,
    heads: int,
    scale: float,
    block: list[int],
    halo: int,
    stride: int,
    step: int,
    masked: bool,
    whole: bool,
) -> Tensor:
    windows = Windows((block[0], block[1]), halo, stride, step, masked, whole)
    return chunks.forward(queries, keys_values, tables, heads, scale, windows)


@torch.library.custom_op("attndense::relative_attention_backward", mutates_args=(), device_types="cpu")
def _backward(
    gradient: Tensor,
    out: Tensor,
    queries: Tensor,
    keys_values: Tensor,
    tables: Tensor,
    heads: int,
    scale: float,
    block: list[int],
    halo: int,
    stride: int,
    step: int,
    masked: bool,
    whole: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    windows = Windows((block[0], block[1]), halo, stride, step, masked, whole)
    return chunks.backward(gradient, out, queries, keys_values, tables, heads, scale, windows)


@_attention.register_fake
def _(queries: Tensor, keys_values: Tensor, tables: Tensor, heads: int, *_: Any) -> Tensor:
    return chunks.new_output(queries, keys_values)


@_backward.register_fake
def _(gradient: Tensor, out: Tensor, queries: Tensor, keys_values: Tensor, tables: Tensor, *_: Any) -> Any:
    return torch.empty_like(queries), torch.empty_like(keys_values), torch.empty_like(tables)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output, *inputs[:3])
    ctx.options = inputs[3:]


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    return *_backward(gradient, *ctx.saved_tensors, *ctx.options), *(None for _ in ctx.options)


_attention.register_autograd(_gradients, setup_context=_save)


def _products(queries: Any, keys_values: Any, tables: Any, block: Any, halo: int, stride: int) -> tuple[int, int, int]:
    """Multiply-accumulates of the products of queries with keys, of weights with values, and of queries with tables."""
    (batch, channels, *_), (height, width) = queries, keys_values[2:]
    blocks = -(-height // block[0]) * -(-width // block[1])
    in_blocks = batch * blocks * (block[0] // stride) * (block[1] // stride)
    keys = (block[0] + 2 * halo) * (block[1] + 2 * halo)
    return in_blocks * keys * channels, in_blocks * keys * (keys_values[1] - channels), in_blocks * channels * tables[0]


@register_flop_formula(torch.ops.attndense.relative_attention)
def _flops(
    queries: Any,
    keys_values: Any,
    tables: Any,
    heads: int,
    scale: float,
    block: Any,
    halo: int,
    stride: int,
    *_: Any,
    **__: Any,
) -> int:
    """Two per multiply-accumulate."""
    return 2 * sum(_products(queries, keys_values, tables, block, halo, stride))


@register_flop_formula(torch.ops.attndense.relative_attention_backward)
def _backward_flops(
    gradient: Any,
    out: Any,
    queries: Any,
    keys_values: Any,
    tables: Any,
    heads: int,
    scale: float,
    block: Any,
    halo: int,
    stride: int,
    *_: Any,
    **__: Any,
) -> int:
    """The products of the forward pass but that with the values again, and two for the gradients of each."""
    content, values, relative = _products(queries, keys_values, tables, block, halo, stride)
    return 2 * (3 * content + 2 * values + 3 * relative)
