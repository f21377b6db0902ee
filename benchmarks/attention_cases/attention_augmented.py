"""Attention augmented convolution and bottleneck attention beside formulations that store all logits."""

from functools import partial

import torch
from timm.layers.bottleneck_attn import BottleneckAttn
from torch import Tensor, nn
from torch.nn import functional as F

from attention import AttentionAugmentedConv2d, BottleneckAttention
from benchmarks.attention_cases import Bounds, Call, Comparison


def relative_to_absolute(x: Tensor) -> Tensor:
    """Logits by offset, (B, heads, lines, L, 2 L - 1), as logits by place, (B, heads, lines, L, L)."""
    *lines, size, _ = x.shape
    x = F.pad(F.pad(x, (0, 1)).flatten(-2), (0, size - 1))
    return x.view(*lines, size + 1, 2 * size - 1)[..., :size, size - 1 :]


class PublishedAttentionAugmentedConv2d(nn.Module):
    """The layer as its paper's appendix formulates it, with the relative logits of all pairs, of the layers of ours."""

    def __init__(self, ours: AttentionAugmentedConv2d) -> None:
        super().__init__()
        assert ours.relative is not None
        self.conv, self.kqv, self.output, self.relative = ours.conv, ours.kqv, ours.output, ours.relative
        self.heads, self.sizes = ours.heads, (ours.key_channels, ours.key_channels, ours.value_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes a map."""
        assert self.conv is not None
        batch, _, height, width = x.shape
        k, q, v = (part.unflatten(1, (self.heads, -1)) for part in self.kqv(x).split(self.sizes, 1))
        q = q.permute(0, 1, 3, 4, 2) * q.shape[2] ** -0.5  # (B, heads, H, W, d)
        of_columns = relative_to_absolute(q @ self.relative.width_rel.t())
        of_columns = of_columns.unsqueeze(4).expand(-1, -1, -1, -1, height, -1)
        of_rows = relative_to_absolute(q.transpose(2, 3) @ self.relative.height_rel.t()).transpose(2, 3)
        of_rows = of_rows.unsqueeze(5).expand(-1, -1, -1, -1, -1, width)
        pairs = (batch, self.heads, height * width, height * width)
        logits = q.flatten(2, 3) @ k.flatten(3) + of_rows.reshape(pairs) + of_columns.reshape(pairs)
        mixed = logits.softmax(3) @ v.flatten(3).transpose(2, 3)
        mixed = mixed.transpose(2, 3).reshape(batch, -1, height, width)
        return torch.cat([self.conv(x), self.output(mixed)], 1)


def prepare(size: int) -> tuple[Call, Call, list[Tensor]]:
    """Both formulations: 256 channels, 64 of keys and 32 of attention in 8 heads."""
    torch.manual_seed(0)
    ours = AttentionAugmentedConv2d(256, 256, kappa=0.25, upsilon=0.125, min_key_channels=8, grid=(size, size))
    return ours, PublishedAttentionAugmentedConv2d(ours), [torch.randn(2, 256, size, size).requires_grad_()]


def prepare_bottleneck() -> tuple[Call, Call, list[Tensor]]:
    """Bottleneck attention and timm's, on the last stage of a segmentation network."""
    torch.manual_seed(0)
    peer = BottleneckAttn(512, 512, (32, 32))
    ours = BottleneckAttention(512, 512, grid=(32, 32))
    ours.load_state_dict(peer.state_dict())
    return ours, peer, [torch.randn(2, 512, 32, 32).requires_grad_()]


COMPARISONS = [
    *(
        Comparison(
            f"attention augmented convolution / all logits stored, 2 x 256 x {size} x {size}, 8 heads",
            partial(prepare, size),
            bounds,
        )
        for size, bounds in (
            (32, Bounds(forward=1, training=1)),  # few enough weights to be stored
            (48, Bounds(forward=1.8, training=1.4, memory=0.6, forward_memory=0.6)),
        )
    ),
    Comparison(
        "bottleneck attention / timm, 2 x 512 x 32 x 32, 4 heads",
        prepare_bottleneck,
        Bounds(forward=1, training=1),
    ),
]
