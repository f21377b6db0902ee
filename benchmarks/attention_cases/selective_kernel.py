"""Selective kernels against timm's, with copied weights, in training mode."""

import torch
from timm.layers.selective_kernel import SelectiveKernel as TimmSelectiveKernel
from torch import Tensor

from attention.selective_kernel import SelectiveKernel
from benchmarks.attention_cases import Bounds, Call, Comparison


def _timm(channels: int = 256, height: int = 100, width: int = 136) -> tuple[Call, Call, list[Tensor]]:
    torch.manual_seed(0)
    ours = SelectiveKernel(channels, channels)
    peer = TimmSelectiveKernel(channels, channels, groups=32, split_input=False, rd_ratio=1 / 16, rd_divisor=32)
    state = ours.state_dict()
    peer.load_state_dict({name if name.startswith("paths.") else f"attn.{name}": state[name] for name in state})
    return ours, peer, [torch.randn(2, channels, height, width, requires_grad=True)]


COMPARISONS = [
    Comparison(
        "selective kernel, timm, 2x256x100x136",
        _timm,
        Bounds(forward=0.98, training=0.98, memory=1.0, forward_memory=1.0),
        channels_last=True,
    ),
]
