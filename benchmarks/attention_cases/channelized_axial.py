"""Channelized axial attention against the authors' grouped vectorisation, written from the equations of 2101.07434.

What is compared is one step along the columns, given queries, keys, values and the gate: the projections before it and
the gate's layers are the same on both sides (the gate's layers are part of both times). 512 channels, 64 key channels,
a 32 x 32 map (output stride 16 of a 512 x 512 crop), batch 1, 16 groups as in the authors' training.
"""

import torch
from torch import Tensor, nn

from attention.channelized_axial import ChannelizedAxialAttention
from attention.functional.logits import channelized_axial_attention
from benchmarks.attention_cases import Bounds, Call, Comparison


def grouped_step(keys: Tensor, values: Tensor, gate: nn.Module, groups: int = 16) -> Tensor:
    """The contributions of every group of queries as a tensor (B, W, queries, keys, C), gated and summed."""
    weights = torch.softmax(keys @ keys.transpose(-1, -2), -1)  # (B, W, H, H)
    parts = []
    for part in weights.chunk(groups, 2):
        contributions = part.unsqueeze(-1) * values.unsqueeze(2)  # (B, W, H / groups, H, C)
        channels = gate(contributions.mean((1, 3)))  # (B, H / groups, C)
        parts.append((contributions * channels[:, None, :, None]).sum(3))
    return torch.cat(parts, 2)


def _column_step(channels: int = 512, key_channels: int = 64, size: int = 32) -> tuple[Call, Call, list[Tensor]]:
    torch.manual_seed(0)
    gate = ChannelizedAxialAttention(channels, key_channels).column_gate
    keys = torch.randn(1, size, size, key_channels).relu_() / 4
    values = torch.randn(1, size, size, channels).relu_()
    return (
        lambda keys, values: channelized_axial_attention(keys, keys, values, gate),
        lambda keys, values: grouped_step(keys, values, gate),
        [keys.requires_grad_(), values.requires_grad_()],
    )


COMPARISONS = [
    Comparison(
        "channelized axial column step, grouped vectorisation, 1x512x32x32",
        _column_step,
        Bounds(forward=50, training=30, memory=1 / 7),
    ),
]
