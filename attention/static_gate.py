"""Static gate, the control of channel attention (Huang et al., ECCV 2024, arXiv 2304.06345)."""

import torch
from torch import Tensor, nn

from attention.base import Refine
from attention.pooling import gated


class StaticGate(Refine):
    """Channels weighted by learned constants: what is left of channel attention that does not look at its input.

        y = x * sigmoid(g)                      g one learned number a channel

    arXiv 2304.06345 finds that trained channel attention approaches constants in many networks, and makes its gate from
    a learned input instead of the map; here the gate itself is learned. A mechanism that does not beat it owes nothing
    to seeing the image. Behind a normalisation the gate could be multiplied into the norm's gain and bias, so that it
    adds no capacity there: what it gains over no attention is owed to how the network starts and learns.

    g starts at zero, the gate at one half: there SqueezeExcitation's gate starts too, but for what its random weights
    make of the image. So two networks that differ in their attention alone begin with the same scale of every branch.
    On a network whose weights were trained without it, `IdentityStart` fades it in like any other.

    g has one dimension and decays or not like the biases, as the bias of SqueezeExcitation's gate does
    (`ParameterRules.decay_norms_and_biases`); decay pulls the gate to where it starts.

    It compiles and exports: one product.

    Parameters: C. Cost: one pass over the map for the product.

    Place: wherever the channel attention that it is compared with is.

    Args:
        channels: Number of channels C of the map, at least 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.scores = nn.Parameter(torch.zeros(channels))  # g

    def forward(self, x: Tensor) -> Tensor:
        """Weights the channels of `x` (B, C, H, W)."""
        weights = torch.sigmoid(self.scores)[:, None, None]  # (C, 1, 1)
        if self.recording:
            self.record("channel", weights.expand(x.shape[0], -1, -1, -1))
        return gated(x, weights)
