"""Inner products of queries and keys in float32 or better, whatever autocast makes of their factors."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def autocast_off(device: torch.device) -> AbstractContextManager[object]:
    """Context in which autocast narrows nothing on a device; for logits that have to be kept in float32."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def at_least_float32(x: Tensor) -> Tensor:
    """A tensor in float32 if it is in half precision, otherwise itself."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def precise_logits(queries: Tensor, keys: Tensor) -> Tensor:
    """Inner products of all queries and keys, (..., N, d) and (..., K, d) -> (..., N, K), in float32 or better.

    Products that no 1 / sqrt(d) tames leave the range of float16 and the resolution of bfloat16, so autocast has no say
    here, and tensors in half precision are widened.
    """
    with autocast_off(queries.device):
        return products(at_least_float32(queries), at_least_float32(keys).transpose(-1, -2))


def products(left: Tensor, right: Tensor) -> Tensor:
    """Matrix products without broadcasting, (..., N, d) and (..., d, K) -> (..., N, K), at less cost than `matmul`."""
    product = torch.bmm(left.flatten(0, -3), right.flatten(0, -3))
    return product.view(*left.shape[:-1], right.shape[-1])
