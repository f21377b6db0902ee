"""Neighbourhood sums and products on a CUDA device: the Triton kernels, or plain PyTorch where Triton cannot run.

The three functions take views as they are: any strides but in the last dimension, which is copied into order where it
is not contiguous. Numbers are multiplied in the dtype of the result (as on a CPU, weights in float32 of values in
bfloat16 are rounded first) and summed in float32. In float32 the kernels multiply on tensor cores without giving up
digits: each number is split in two parts that TF32 holds, and what is lost is below 2^-21 of every product. In float64,
which is for tests, all runs in plain PyTorch.

As on a CPU, a value that is infinite or NaN can also spoil queries next to those that see it.
"""

import os
import warnings
from collections.abc import Mapping
from functools import cache
from math import gcd

import torch
from torch import Tensor

from attention.functional.neighbourhood import shifts

_TALL, _WIDE = 4, 8  # tile of queries of a program, as in the kernels


@cache
def available(device: torch.device) -> bool:
    """Whether the kernels run on a device.

    That takes Triton, which PyTorch brings along on Linux, and a GPU that it supports: NVIDIA's of compute capability
    8.0 (Ampere) and later, or AMD's. With the environment variable TRITON_INTERPRET=1 they run on a CPU, for tests.
    """
    if device.type == "cpu":
        return os.environ.get("TRITON_INTERPRET") == "1" and _starts()
    return _starts() and (torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0))


@cache
def _starts() -> bool:
    try:
        import triton

        if os.environ.get("TRITON_INTERPRET") != "1":
            triton.runtime.driver.active.get_current_device()  # older releases need a C compiler for it
    except ImportError:
        return False
    except Exception as error:
        warnings.warn(f"Triton is installed but does not start; sliding attention will be slow: {error}", stacklevel=2)
        return False
    return True


def weighted_sum(weights: Tensor, values: Tensor, stride: int, dilation: int) -> Tensor:
    """`neighbourhood_sum` of weights (B, H', W', heads, k k) and values (B, H, W, heads, c), in the dtype of values."""
    if not _by_kernel(weights, values):
        total = shifts.weighted_sum(_at_least_single(weights), _at_least_single(values), stride, dilation)
        return total.to(values.dtype)
    out = values.new_empty((*weights.shape[:4], values.shape[4]))
    kernel_size = _side(weights)
    step, classes = _in_common_units(stride, dilation)
    window = (_WIDE - 1) * step + kernel_size
    constants = {"KERNEL_SIZE": kernel_size, "STEP": step, "DILATION": dilation, "CLASSES": classes}
    _run("sum_kernel", weights, values, out, values.shape[1:3], weights.shape[1:3], window, constants)
    return out


def inner_products(queries: Tensor, keys: Tensor, kernel_size: int, stride: int, dilation: int) -> Tensor:
    """`neighbourhood_products` of queries (B, H', W', heads, c) and keys (B, H, W, heads, c), in queries' dtype."""
    if not _by_kernel(queries, keys):
        left, right = _at_least_single(queries), _at_least_single(keys)
        return shifts.inner_products(left, right, kernel_size, stride, dilation).to(queries.dtype)
    out = queries.new_empty((*queries.shape[:4], kernel_size**2))
    step, classes = _in_common_units(stride, dilation)
    window = (_WIDE - 1) * step + kernel_size
    constants = {"KERNEL_SIZE": kernel_size, "STEP": step, "DILATION": dilation, "CLASSES": classes}
    _run("products_kernel", queries, keys, out, keys.shape[1:3], queries.shape[1:3], window, constants)
    return out


def scatter(weights: Tensor, queries: Tensor, height: int, width: int, stride: int, dilation: int) -> Tensor:
    """`neighbourhood_scatter` of weights (B, H', W', heads, k k) and queries (B, H', W', heads, c), in queries' dtype.

    Returns:
        What every position of the map receives, (B, height, width, heads, c).
    """
    if not _by_kernel(weights, queries):
        left, right = _at_least_single(weights), _at_least_single(queries)
        return _scatter_by_shifts(left, right, height, width, stride, dilation).to(queries.dtype)
    out = queries.new_empty((queries.shape[0], height, width, *queries.shape[3:]))
    kernel_size = _side(weights)
    classes = dilation if stride == 1 else 1
    reach = dilation // classes * (kernel_size // 2)
    window = reach // stride + (stride - 1 + _WIDE - 1 + reach) // stride + 1
    constants = {"KERNEL_SIZE": kernel_size, "STEP": stride, "DILATION": dilation // classes, "CLASSES": classes}
    _run("scatter_kernel", weights, queries, out, out.shape[1:3], weights.shape[1:3], window, constants)
    return out


def _by_kernel(left: Tensor, right: Tensor) -> bool:
    return available(left.device) and torch.float64 not in (left.dtype, right.dtype)


def _run(
    name: str,
    left: Tensor,
    right: Tensor,
    out: Tensor,
    positions: torch.Size,
    queries: torch.Size,
    window: int,
    constants: Mapping[str, int],
) -> None:
    """Runs a kernel.

    Args:
        name: Its name.
        left: First argument, (B, H', W', heads, ...).
        right: Second argument, (B, ..., heads, c).
        out: Where the result goes, (B, ..., heads, ...), contiguous.
        positions: Height H and width W of the map.
        queries: Height H' and width W' of the map of queries.
        window: Columns of the window that a tile of `_WIDE` columns sees.
        constants: Compile-time constants that depend on kernel size, stride and dilation.
    """
    if not out.numel():
        return
    from attention.functional.neighbourhood import triton_kernels

    left, right = (tensor if tensor.stride(4) == 1 else tensor.contiguous() for tensor in (left, right))
    heads, channels = right.shape[3:]
    block, chunk = _blocks(channels, window)
    spread = constants["CLASSES"]
    programs = out.shape[0] * heads * (1 if name == "products_kernel" else -(-channels // block))
    for size, side in zip(out.shape[1:3], (_TALL, _WIDE), strict=True):
        programs *= spread * -(-size // (spread * side))
    # Triton's interpreter would multiply the bits of bfloat16 as integers.
    compute = torch.float32 if (out.device.type, out.dtype) == ("cpu", torch.bfloat16) else out.dtype
    with torch.cuda.device_of(out):
        getattr(triton_kernels, name)[(programs,)](
            left,
            right,
            out,
            *left.stride()[:4],
            *right.stride()[:4],
            *positions,
            *queries,
            heads,
            **constants,
            CHANNELS=channels,
            BLOCK=block,
            CHUNK=chunk,
            CHUNKS=-(-window // chunk),
            COMPUTE=triton_kernels.DTYPES[compute],
            SPLIT=compute == torch.float32 and torch.version.hip is None,
            num_warps=2,
        )


def _blocks(channels: int, window: int) -> tuple[int, int]:
    """Channels, and columns of the window, that a program handles at a time: powers of two of at least 16.

    Fixed by the sizes and not tried out at run time, since there is little to choose. 16 columns hold the window of
    k <= 9, and more would only be masked; the sums of 64 channels are as many as stay in registers in every dtype.
    Trying out takes seconds per size of the map, and multi-scale training has hundreds of sizes.
    """
    block = min(64, max(16, 1 << (channels - 1).bit_length()))
    return block, 16 if window <= 16 else 32


def _in_common_units(stride: int, dilation: int) -> tuple[int, int]:
    """Stride and dilation divided by their greatest common divisor."""
    common = gcd(stride, dilation)
    return stride // common, dilation // common


def _scatter_by_shifts(weights: Tensor, queries: Tensor, height: int, width: int, stride: int, dilation: int) -> Tensor:
    """`scatter` in standard operators, cell by cell."""
    kernel_size = _side(weights)
    reach = dilation * (kernel_size // 2)
    shape = (queries.shape[0], height + 2 * reach, width + 2 * reach, *queries.shape[3:])
    received = queries.new_zeros(shape, dtype=torch.promote_types(weights.dtype, queries.dtype))
    rows, columns = queries.shape[1:3]
    for index, cell in enumerate(shifts.cell_views(received, rows, columns, kernel_size, stride, dilation)):
        cell += weights[..., index : index + 1] * queries
    return received[:, reach : reach + height, reach : reach + width].contiguous()


def _at_least_single(tensor: Tensor) -> Tensor:
    """The tensor in a dtype in which sums over a neighbourhood keep their digits."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _side(weights: Tensor) -> int:
    """Side k of the neighbourhood of weights (..., k k)."""
    return round(weights.shape[-1] ** 0.5)
