"""The non-local block against timm's (`NonLocalAttn`, without a scale), with the same weights."""

import torch
from timm.layers.non_local_attn import NonLocalAttn
from torch import Tensor, nn

from attention.non_local import NonLocal
from benchmarks.attention_cases import Bounds, Call, Comparison

NAMES = {"theta": "t", "phi": "p", "g": "g", "out": "z", "norm": "norm"}
"""timm's names of the layers."""


def _blocks(channels: int, rows: int, columns: int) -> tuple[Call, Call, list[Tensor]]:
    torch.manual_seed(0)
    ours = NonLocal(channels, norm=True)
    nn.init.constant_(ours.norm.weight, 0.1)  # zero at the start, which would compare nothing
    peer = NonLocalAttn(channels, use_scale=False, rd_channels=channels // 2)
    parts = ((name.split(".", 1), value) for name, value in ours.state_dict().items())
    peer.load_state_dict({f"{NAMES[part]}.{rest}": value for (part, rest), value in parts})
    return ours, peer, [torch.randn(2, channels, rows, columns).requires_grad_()]


COMPARISONS = [
    Comparison("non-local, timm, 2x256x50x68", lambda: _blocks(256, 50, 68), Bounds()),
]
