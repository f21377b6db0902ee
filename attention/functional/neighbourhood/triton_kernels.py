"""Neighbourhood sums and products as Triton kernels: matrix products of small tiles, for tensor cores.

A program takes 4 x 8 queries of one head and walks over the rows of the window of positions that they see together, 10
rows of 14 for k = 7. The weights that the 32 queries have for the positions of one row, zero where a position is no
neighbour, form a band matrix, which is loaded straight into its place; its product with the row's values goes to the
sums. Read the other way, the product of queries and keys of a row holds the inner products on that band. So every
weight is loaded or stored once, and every value is loaded for 32 queries at a time; a loop over the k k cells would
load each weight again for every few channels, which alone takes longer than all traffic to memory. Nothing is
accumulated in memory, so every run gives the same bits.

With a dilation d the queries of a tile are d / gcd(stride, d) apart, so that their windows share cells: in units of the
dilation the window is again dense, and query j sees the cells E j .. E j + k - 1 with E = stride / gcd(stride, d).

Offsets of rows and images are 64 bits wide. The arguments are explained in `launch`, which calls this.
"""

import torch
import triton
import triton.language as tl

# Rows and columns of a tile of queries (positions, for the scatter).
TALL = tl.constexpr(4)
WIDE = tl.constexpr(8)

# Their values change with the size of the map; a kernel compiled for each would make multi-scale training wait.
SIZES = ["height", "width", "rows", "columns", "heads"]
WEIGHTS = ["weights_image", "weights_row", "weights_column", "weights_head"]

DTYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


@triton.jit(do_not_specialize=SIZES + WEIGHTS)
def sum_kernel(
    weights: tl.tensor,
    values: tl.tensor,
    out: tl.tensor,
    weights_image: tl.tensor,
    weights_row: tl.tensor,
    weights_column: tl.tensor,
    weights_head: tl.tensor,
    values_image: tl.tensor,
    values_row: tl.tensor,
    values_column: tl.tensor,
    values_head: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    heads: tl.tensor,
    KERNEL_SIZE: tl.constexpr,
    STEP: tl.constexpr,
    DILATION: tl.constexpr,
    CLASSES: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    COMPUTE: tl.constexpr,
    SPLIT: tl.constexpr,
) -> None:
    """`neighbourhood_sum`; a program writes BLOCK channels of a tile of queries."""
    image, tile_row, tile_column, head, block = _place(rows, columns, heads, CLASSES, (CHANNELS + BLOCK - 1) // BLOCK)
    i, j, row, column = _tile(tile_row, tile_column, CLASSES)
    present = (row < rows) & (column < columns)
    channel = block * BLOCK + tl.arange(0, BLOCK)
    weights += image * weights_image + head * weights_head
    weights_of = row.to(tl.int64) * weights_row + column.to(tl.int64) * weights_column
    values += image * values_image + head * values_head
    top = _first_cell(tile_row, TALL, KERNEL_SIZE, STEP, DILATION, CLASSES)
    left = _first_cell(tile_column, WIDE, KERNEL_SIZE, STEP, DILATION, CLASSES)
    window_rows: tl.constexpr = (TALL - 1) * STEP + KERNEL_SIZE

    total = tl.zeros((TALL * WIDE, BLOCK), tl.float32)
    for part in range(window_rows * CHUNKS):
        down, across = part // CHUNKS, part % CHUNKS * CHUNK + tl.arange(0, CHUNK)
        a = down - STEP * i
        b = across[None, :] - STEP * j[:, None]
        band = (present & (a >= 0) & (a < KERNEL_SIZE))[:, None] & (b >= 0) & (b < KERNEL_SIZE)
        weight = tl.load(weights + (weights_of + a * KERNEL_SIZE)[:, None] + b, mask=band, other=0)
        cell_row, cell_column = top + DILATION * down, left + DILATION * across
        inside = (cell_row >= 0) & (cell_row < height) & (cell_column >= 0) & (cell_column < width)
        values_of = cell_row.to(tl.int64) * values_row + cell_column.to(tl.int64) * values_column
        value = tl.load(
            values + values_of[:, None] + channel[None, :],
            mask=inside[:, None] & (channel < CHANNELS)[None, :],
            other=0,
        )
        total = _matmul(weight.to(COMPUTE), value.to(COMPUTE), total, SPLIT)

    out_of = ((image * rows + row) * columns + column) * heads + head
    tl.store(
        out + (out_of * CHANNELS)[:, None] + channel[None, :],
        total.to(out.dtype.element_ty),
        mask=present[:, None] & (channel < CHANNELS)[None, :],
    )


@triton.jit(do_not_specialize=SIZES)
def products_kernel(
    queries: tl.tensor,
    keys: tl.tensor,
    out: tl.tensor,
    queries_image: tl.tensor,
    queries_row: tl.tensor,
    queries_column: tl.tensor,
    queries_head: tl.tensor,
    keys_image: tl.tensor,
    keys_row: tl.tensor,
    keys_column: tl.tensor,
    keys_head: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    heads: tl.tensor,
    KERNEL_SIZE: tl.constexpr,
    STEP: tl.constexpr,
    DILATION: tl.constexpr,
    CLASSES: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    COMPUTE: tl.constexpr,
    SPLIT: tl.constexpr,
) -> None:
    """`neighbourhood_products`; a program writes the k k products of a tile of queries."""
    image, tile_row, tile_column, head, _ = _place(rows, columns, heads, CLASSES, 1)
    i, j, row, column = _tile(tile_row, tile_column, CLASSES)
    present = (row < rows) & (column < columns)
    channel = tl.arange(0, BLOCK)
    queries += image * queries_image + head * queries_head
    queries_of = row.to(tl.int64) * queries_row + column.to(tl.int64) * queries_column
    keys += image * keys_image + head * keys_head
    top = _first_cell(tile_row, TALL, KERNEL_SIZE, STEP, DILATION, CLASSES)
    left = _first_cell(tile_column, WIDE, KERNEL_SIZE, STEP, DILATION, CLASSES)
    window_rows: tl.constexpr = (TALL - 1) * STEP + KERNEL_SIZE
    out_of = (((image * rows + row) * columns + column) * heads + head) * (KERNEL_SIZE * KERNEL_SIZE)

    for part in range(window_rows * CHUNKS):
        down, across = part // CHUNKS, part % CHUNKS * CHUNK + tl.arange(0, CHUNK)
        cell_row, cell_column = top + DILATION * down, left + DILATION * across
        inside = (cell_row >= 0) & (cell_row < height) & (cell_column >= 0) & (cell_column < width)
        keys_of = cell_row.to(tl.int64) * keys_row + cell_column.to(tl.int64) * keys_column
        product = tl.zeros((TALL * WIDE, CHUNK), tl.float32)
        for first in tl.range(0, CHANNELS, BLOCK, num_stages=1):
            real = first + channel < CHANNELS
            query = tl.load(
                queries + queries_of[:, None] + (first + channel)[None, :],
                mask=present[:, None] & real[None, :],
                other=0,
            )
            key = tl.load(
                keys + keys_of[None, :] + (first + channel)[:, None], mask=inside[None, :] & real[:, None], other=0
            )
            product = _matmul(query.to(COMPUTE), key.to(COMPUTE), product, SPLIT)
        a = down - STEP * i
        b = across[None, :] - STEP * j[:, None]
        band = (present & (a >= 0) & (a < KERNEL_SIZE))[:, None] & (b >= 0) & (b < KERNEL_SIZE)
        tl.store(out + (out_of + a * KERNEL_SIZE)[:, None] + b, product.to(out.dtype.element_ty), mask=band)


@triton.jit(do_not_specialize=SIZES + WEIGHTS)
def scatter_kernel(
    weights: tl.tensor,
    queries: tl.tensor,
    out: tl.tensor,
    weights_image: tl.tensor,
    weights_row: tl.tensor,
    weights_column: tl.tensor,
    weights_head: tl.tensor,
    queries_image: tl.tensor,
    queries_row: tl.tensor,
    queries_column: tl.tensor,
    queries_head: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    heads: tl.tensor,
    KERNEL_SIZE: tl.constexpr,
    STEP: tl.constexpr,
    DILATION: tl.constexpr,
    CLASSES: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    COMPUTE: tl.constexpr,
    SPLIT: tl.constexpr,
) -> None:
    """`neighbourhood_scatter`; a program gathers BLOCK channels of a tile of positions from the queries around it.

    Positions of a tile are CLASSES apart, which is the dilation where queries stand at every position and 1 otherwise;
    STEP and DILATION are the distances of queries and of cells in that unit. Position m sees query n in cell
    t = (m - STEP n) / DILATION + k // 2, if that is a whole number of 0 .. k - 1.
    """
    image, tile_row, tile_column, head, block = _place(height, width, heads, CLASSES, (CHANNELS + BLOCK - 1) // BLOCK)
    _, _, row, column = _tile(tile_row, tile_column, CLASSES)
    channel = block * BLOCK + tl.arange(0, BLOCK)
    weights += image * weights_image + head * weights_head
    queries += image * queries_image + head * queries_head
    # The first query that may reach the tile, in units of CLASSES; positions count from it.
    reach: tl.constexpr = DILATION * (KERNEL_SIZE // 2)
    lead: tl.constexpr = reach // STEP
    window_rows: tl.constexpr = lead + (STEP - 1 + TALL - 1 + reach) // STEP + 1
    first_row = _tile_start(tile_row, TALL, CLASSES) // STEP - lead
    first_column = _tile_start(tile_column, WIDE, CLASSES) // STEP - lead
    from_top = row // CLASSES - STEP * first_row + reach
    from_left = column // CLASSES - STEP * first_column + reach

    total = tl.zeros((TALL * WIDE, BLOCK), tl.float32)
    for part in range(window_rows * CHUNKS):
        down, across = part // CHUNKS, part % CHUNKS * CHUNK + tl.arange(0, CHUNK)
        query_row = tile_row % CLASSES + CLASSES * (first_row + down)
        query_column = tile_column % CLASSES + CLASSES * (first_column + across)
        exists = (query_row >= 0) & (query_row < rows) & (query_column >= 0) & (query_column < columns)
        a = from_top - STEP * down
        b = from_left[None, :] - STEP * across[:, None]  # positions last: their cells follow each other in memory
        band = (a >= 0) & (a % DILATION == 0) & (a < DILATION * KERNEL_SIZE)
        band = exists[:, None] & band[None, :] & (b >= 0) & (b % DILATION == 0) & (b < DILATION * KERNEL_SIZE)
        weights_of = query_row.to(tl.int64) * weights_row + query_column.to(tl.int64) * weights_column
        cells = (a // DILATION * KERNEL_SIZE)[None, :] + b // DILATION
        weight = tl.load(weights + weights_of[:, None] + cells, mask=band, other=0)
        queries_of = query_row.to(tl.int64) * queries_row + query_column.to(tl.int64) * queries_column
        query = tl.load(
            queries + queries_of[:, None] + channel[None, :],
            mask=exists[:, None] & (channel < CHANNELS)[None, :],
            other=0,
        )
        total = _matmul(tl.trans(weight.to(COMPUTE)), query.to(COMPUTE), total, SPLIT)

    out_of = ((image * height + row) * width + column) * heads + head
    tl.store(
        out + (out_of * CHANNELS)[:, None] + channel[None, :],
        total.to(out.dtype.element_ty),
        mask=((row < height) & (column < width))[:, None] & (channel < CHANNELS)[None, :],
    )


@triton.jit
def _matmul(left: tl.tensor, right: tl.tensor, total: tl.tensor, SPLIT: tl.constexpr) -> tl.tensor:
    """`total + left @ right`; SPLIT takes float32 numbers apart for tensor cores, which keep 11 of their 24 bits."""
    if SPLIT:
        left_high, right_high = _high(left), _high(right)
        total = tl.dot(left - left_high, right_high, total, input_precision="tf32")
        total = tl.dot(left_high, right - right_high, total, input_precision="tf32")
        return tl.dot(left_high, right_high, total, input_precision="tf32")
    else:
        return tl.dot(left, right, total, input_precision="ieee")


@triton.jit
def _high(x: tl.tensor) -> tl.tensor:
    """The nearest number with 11 bits; what it leaves of x is exact and has 12 bits and a sign."""
    return ((x.to(tl.int32, bitcast=True) + 4096) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def _place(
    rows: tl.tensor, columns: tl.tensor, heads: tl.tensor, CLASSES: tl.constexpr, BLOCKS: tl.constexpr
) -> tl.tensor:
    """Image, row and column of the tile, head and block of channels of this program; heads vary fastest.

    Heads and channels of a position lie side by side in memory, so programs that run together share cache lines.
    """
    program = tl.program_id(0)
    block = program % BLOCKS
    program = program // BLOCKS
    head = program % heads
    program = program // heads
    across = CLASSES * ((columns + CLASSES * WIDE - 1) // (CLASSES * WIDE))
    down = CLASSES * ((rows + CLASSES * TALL - 1) // (CLASSES * TALL))
    tile_column = program % across
    program = program // across
    tile_row = program % down
    image = program // down
    return image.to(tl.int64), tile_row, tile_column, head.to(tl.int64), block


@triton.jit
def _tile(tile_row: tl.tensor, tile_column: tl.tensor, CLASSES: tl.constexpr) -> tl.tensor:
    """Index in the tile, and row and column in the map, of the tile's elements: (i, j, row, column)."""
    element = tl.arange(0, TALL * WIDE)
    i, j = element // WIDE, element % WIDE
    row = tile_row % CLASSES + CLASSES * (_tile_start(tile_row, TALL, CLASSES) + i)
    column = tile_column % CLASSES + CLASSES * (_tile_start(tile_column, WIDE, CLASSES) + j)
    return i, j, row, column


@triton.jit
def _tile_start(tile: tl.tensor, SIDE: tl.constexpr, CLASSES: tl.constexpr) -> tl.tensor:
    """Index of the first element of a tile among those of its class, which are CLASSES apart."""
    return tile // CLASSES * SIDE


@triton.jit
def _first_cell(
    tile: tl.tensor,
    SIDE: tl.constexpr,
    KERNEL_SIZE: tl.constexpr,
    STEP: tl.constexpr,
    DILATION: tl.constexpr,
    CLASSES: tl.constexpr,
) -> tl.tensor:
    """Row (column) of the map of the first cell that a tile of queries sees; negative outside.

    The stride is STEP * DILATION / CLASSES, both STEP and CLASSES being divided by the same number.
    """
    first = STEP * _tile_start(tile, SIDE, CLASSES) - KERNEL_SIZE // 2
    return tile % CLASSES * (STEP * DILATION // CLASSES) + DILATION * first
