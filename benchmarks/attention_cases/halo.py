"""Halo attention beside timm's, with the same weights."""

from functools import partial

import torch
from timm.layers.halo_attn import HaloAttn
from torch import Tensor

from attention import HaloAttention
from benchmarks.attention_cases import Bounds, Call, Comparison


def prepare(stride: int) -> tuple[Call, Call, list[Tensor]]:
    """Both modules on a detector's map."""
    torch.manual_seed(0)
    peer = HaloAttn(256, 256, None, stride, num_heads=8, block_size=8, halo_size=3)
    ours = HaloAttention(256, 256, stride, heads=8, block=8, halo=3, layout="timm")
    ours.load_state_dict(peer.state_dict())
    return ours, peer, [torch.randn(2, 256, 104, 136).requires_grad_()]


COMPARISONS = [
    Comparison(
        "halo attention / timm, 2 x 256 x 104 x 136, block 8, halo 3",
        partial(prepare, 1),
        Bounds(forward=1.5, training=1.3, memory=0.6, forward_memory=0.5),
        channels_last=True,
    ),
    Comparison(
        "halo attention / timm, 2 x 256 x 104 x 136, block 8, halo 3, stride 2",
        partial(prepare, 2),
        Bounds(forward=1.5, training=1.1, memory=1),
    ),
]
