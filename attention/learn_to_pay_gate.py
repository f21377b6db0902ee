"""Learn to pay attention as a refinement (after Jetley et al., ICLR 2018, arXiv 1804.02391)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from attention.base import Refine, check_choice
from attention.functional.logits import precise_logits
from attention.pooling import gated, global_mean

Compatibility = Literal["dot_product", "parametrised"]


class LearnToPayGate(Refine):
    """Positions weighted by their compatibility with a descriptor of the same map.

        g = W mean_{H,W} x + b                          (B, C)
        c = <x, g>,   `parametrised`: <u, x>            at every position: (B, 1, H, W)
        y = x * H W softmax_{H,W} c                     (B, C, H, W)

    arXiv 1804.02391, section 3, for dense networks, which have no place for its pooled vectors: each position keeps its
    summand of the pooled vector, and the factor H W makes equal weights change nothing (assumption A51). The mean of y
    is what `LearnToPayAttention` pools. Of the parametrised compatibility <u, x + g> the part of g is the same at all
    positions and cancels in the softmax, so that form has no descriptor here.

    W and b, or u, start at zero, so that the gate starts as the identity. Scores and softmax are in float32 under
    autocast. Compiles and exports for any size.

    Parameters: C^2 + C, with `parametrised` C. Cost: C^2 + C H W multiply-accumulates; three passes over the map.

    Place: on the residual branch of a block before the addition, in the later stages.

    Args:
        channels: Number of channels C of the map, at least 1.
        compatibility: Score of a position: its `dot_product` with the descriptor, or `parametrised` by a learned u.
    """

    starts_as_identity = True

    def __init__(self, channels: int, compatibility: Compatibility = "dot_product") -> None:
        super().__init__(channels)
        check_choice("compatibility", compatibility, get_args(Compatibility))
        self.compatibility: Compatibility = compatibility
        if compatibility == "dot_product":
            self.descriptor = nn.Linear(channels, channels)
            nn.init.zeros_(self.descriptor.weight)
            nn.init.zeros_(self.descriptor.bias)
        else:
            self.towards = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Weights the positions of `x` (B, C, H, W)."""
        height, width = x.shape[2:]
        if self.compatibility == "dot_product":
            towards = self.descriptor(global_mean(x).flatten(1))
        else:
            towards = self.towards.expand(x.shape[0], -1)
        scores = precise_logits(towards.unsqueeze(1), x.flatten(2).transpose(1, 2))  # (B, 1, H W)
        gate = (torch.softmax(scores, 2) * (height * width)).unflatten(2, (height, width))
        if self.recording:
            self.record("position", gate)
        return gated(x, gate)
