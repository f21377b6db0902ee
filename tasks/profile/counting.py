"""Multiply-accumulates as every table of this package states them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

Shape = torch.Size


def _product_in_place(_start: Shape, left: Shape, right: Shape, **_options: Any) -> int:
    """FLOPs of `start += left @ right`, matrices (B, N, K) and (B, K, M)."""
    return 2 * left[0] * left[1] * left[2] * right[2]


def _attention(query: Shape, key: Shape, value: Shape, *_options: Any, **_more: Any) -> int:
    """FLOPs of both products of `scaled_dot_product_attention`."""
    return int(sdpa_flop_count(query, key, value))


# Two products that PyTorch counts under their other names only: without them a network with
# scaled_dot_product_attention would cost less on a CPU than on a GPU.
_UNKNOWN_TO_PYTORCH = {
    torch.ops.aten.baddbmm_: _product_in_place,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
}


@contextmanager
def counted_macs() -> Iterator[Callable[[], int]]:
    """Gives a function that says how many multiply-accumulates have run so far inside; see `count_macs`."""
    counter = FlopCounterMode(display=False, custom_mapping=_UNKNOWN_TO_PYTORCH)
    with torch.no_grad(), counter:
        yield lambda: int(counter.get_total_flops()) // 2


def count_macs(call: Callable[[], object]) -> int:
    """Multiply-accumulates of a call in convolutions and matrix products: half its FLOPs.

    Pooling, normalisation, activations, softmax and element-wise products are not counted, nor is what a hand-written
    loop or GPU kernel multiplies, unless it is registered with `torch.utils.flop_counter`, as those of `attention` are.
    On the device `meta`, `with torch.device("meta"):`, nothing is computed and nothing stored, whatever the size.

    Args:
        call: What is counted; gradients are off.
    """
    with counted_macs() as so_far:
        call()
        return so_far()
