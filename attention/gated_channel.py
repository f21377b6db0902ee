"""GCT, gated channel transformation (Yang et al., CVPR 2020, arXiv 1909.11519)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from attention.base import Refine, check_choice
from attention.functional.layout import is_channels_last
from attention.functional.logits import at_least_float32
from attention.pooling import gated, total

Norm = Literal["l2", "l1"]


class GatedChannelTransformation(Refine):
    """Channels that compete or cooperate: each weighted by its norm relative to the others.

        s_c = alpha_c (sum_{H,W} x_c^2 + epsilon)^(1/2)                 `l1`: alpha_c sum_{H,W} |x_c|
        n_c = s_c / (mean_C s^2 + epsilon)^(1/2)                        `l1`: s_c / (mean_C |s| + epsilon)
        y_c = x_c (1 + tanh(gamma_c n_c + beta_c))

    arXiv 1909.11519, equations 2 to 4. The paper writes sqrt(C) s_c / (sum_C s^2 + epsilon)^(1/2), which is the same
    but for C times epsilon; this is the authors' code, whose l1 form the paper only names (assumption A38).

    alpha starts at one, gamma and beta at zero, so that the transformation starts as the identity. All three have one
    dimension and decay or not like biases. Sums are in float32 where the map is in half precision. It compiles and
    exports: sums and point-wise functions.

    Parameters: 3 C. Cost: one pass over the map for the norms and one for the product.

    Place: in front of every convolution, in the paper; behind a block's last norm it compares with other gates.

    Args:
        channels: Number of channels C of the map, at least 1.
        norm: Norm of a channel and of the channels together: `l2` (the paper) or `l1`, its cheaper alternative.
        epsilon: Added under the root, or to the mean, of what divides, positive. The paper takes 1e-5.
    """

    starts_as_identity = True

    def __init__(self, channels: int, norm: Norm = "l2", epsilon: float = 1e-5) -> None:
        super().__init__(channels)
        check_choice("norm", norm, get_args(Norm))
        if epsilon <= 0:
            raise ValueError(f"epsilon={epsilon} does not guard a division; give a positive number such as 1e-5")
        self.norm: Norm = norm
        self.epsilon = epsilon
        self.alpha = nn.Parameter(torch.ones(channels))
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Weights the channels of `x` (B, C, H, W)."""
        wide = at_least_float32(x)
        alpha, gamma, beta = (value[:, None, None] for value in (self.alpha, self.gamma, self.beta))
        if self.norm == "l2":
            scores = alpha * torch.sqrt(_sum_of_squares(wide) + self.epsilon)  # (B, C, 1, 1)
            scale = torch.sqrt(scores.square().mean(1, keepdim=True) + self.epsilon)
        else:
            scores = alpha * total(wide.abs(), 2, 3)
            scale = scores.abs().mean(1, keepdim=True) + self.epsilon
        weights = 1 + torch.tanh(gamma * (scores / scale) + beta)
        if self.recording:
            self.record("channel", weights)
        return gated(x, weights)


def _sum_of_squares(x: Tensor) -> Tensor:
    """Of each channel, (B, C, 1, 1). The norm needs no map of squares, but is slow where channels are innermost."""
    if is_channels_last(x):
        return total(x.square(), 2, 3)
    return torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True).square()
