"""GC, the global context block of GCNet (Cao et al., ICCV Workshops 2019, arXiv 1904.11492)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Refine, check_choice
from attention.pooling import gated

Fusion = Literal["add", "multiply"]


class GlobalContext(Refine):
    """One attention-weighted average of the map, transformed and added to every position.

        a = softmax_{H,W}(w_k x + b_k)                  (B, 1, H, W)
        t = W2 relu(LN(W1 sum_{H,W} a x + b1)) + b2     W1: (m, C), W2: (C, m), m = floor(C ratio)
        y = x + t                                       `multiply`: y = x * sigmoid(t)

    arXiv 1904.11492, figure 4(d): the non-local block simplified to attention that is the same for every query, with a
    bottleneck in place of its value projection. The layer normalisation acts on the m hidden channels. The bias b_k is
    that of the released networks; the softmax cancels it.

    W2 and b2 start at zero, so that the block starts as the identity (with `multiply`, as one half of the map).

    It compiles and exports: products, a softmax and a layer normalisation.

    Parameters: 2 C m + 2 C + 3 m + 1. Cost: 2 C H W + 2 C m multiply-accumulates; three passes over the map, no
    temporary of its size forward.

    Place: on the residual branch of a block behind its last norm, before the addition, in the later stages.

    Args:
        channels: Number of channels C of the map, at least 1.
        ratio: Hidden width m per channel, in (0, 1] and large enough that m >= 1. MMSegmentation takes 1 / 4, the
            paper's detectors 1 / 16 or 1 / 4.
        fusion: How the context reaches the map: `add` (the paper) or `multiply`, the paper's alternative.
        epsilon: Added to the variance in the layer normalisation: 1e-5 in the released networks, 1e-6 in timm.
    """

    def __init__(self, channels: int, ratio: float = 0.25, fusion: Fusion = "add", epsilon: float = 1e-5) -> None:
        super().__init__(channels)
        check_choice("fusion", fusion, get_args(Fusion))
        width = int(channels * ratio)
        if not 1 <= width <= channels:
            raise ValueError(
                f"ratio={ratio} makes {width} hidden channels of channels={channels}; "
                f"give a value from {1 / channels:.3g} to 1"
            )
        if epsilon <= 0:
            raise ValueError(f"epsilon={epsilon} does not guard a division; give a positive number such as 1e-5")
        self.fusion: Fusion = fusion
        self.starts_as_identity = fusion == "add"
        self.key = nn.Conv2d(channels, 1, 1)
        self.fc1 = nn.Conv2d(channels, width, 1)
        self.norm = nn.LayerNorm(width, eps=epsilon)
        self.fc2 = nn.Conv2d(width, channels, 1)
        nn.init.kaiming_normal_(self.key.weight)
        for layer in (self.key, self.fc1):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.fc2.weight)
        if self.fc2.bias is not None:
            nn.init.zeros_(self.fc2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Adds the context of `x` (B, C, H, W), or weights its channels by it."""
        hidden = self.fc1(self._context(x))  # (B, m, 1, 1)
        hidden = F.relu(self.norm(hidden.flatten(1)))
        transformed = self.fc2(hidden.unsqueeze(2).unsqueeze(3))  # (B, C, 1, 1)
        if self.fusion == "add":
            return x + transformed.to(x.dtype)
        weights = torch.sigmoid(transformed)
        if self.recording:
            self.record("channel", weights)
        return gated(x, weights)

    def _context(self, x: Tensor) -> Tensor:
        """Average of `x` (B, C, H, W) weighted by attention, (B, C, 1, 1)."""
        scores = self.key(x)
        weights = F.softmax(scores.flatten(1), 1, dtype=torch.promote_types(x.dtype, torch.float32))  # (B, H W)
        weights = weights.to(x.dtype)
        if self.recording:
            rows, columns = (torch.arange(size, device=x.device).unsqueeze(0) for size in x.shape[2:])
            # One query, which stands for all positions.
            self.record("key", weights.view(-1, 1, 1, 1, *x.shape[2:]), rows, columns)
        return torch.matmul(x.flatten(2), weights.unsqueeze(2)).unsqueeze(3)
