"""Any refinement, started as the identity by a learnable scalar (Bachlechner et al., UAI 2021, arXiv 2003.04887)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attention.base import Refine


class IdentityStart(Refine):
    """Any refinement A, faded in from the identity.

        y = x + alpha (A(x) - x)        alpha one learnable scalar, 0 at the start (1 where A is the identity then)

    A network with pretrained weights computes the same numbers before the first step as it did without the refinement.
    The idea is that of arXiv 2003.04887, equation 1, where alpha scales a residual branch; here the branch is what the
    refinement changes. At alpha = 0 only alpha has a gradient, so that the parameters of A start to learn in the second
    step; at alpha = 1 this is A itself, and nothing confines alpha to [0, 1]. Where A starts as the identity by itself
    (its last layer is zero), alpha starts at 1: of two factors that are both zero neither would ever have a gradient.

    Identity at the start presumes that A(x) is finite. It compiles and exports where A does.

    Parameters: those of A and 1. Cost: that of A, and one pass over the map and A's result; one map more in memory.

    Place: where the refinement itself would be inserted into a pretrained network.

    Args:
        channels: Number of channels C of the map, at least 1.
        operator: Makes the refinement from the number of channels.
    """

    starts_as_identity = True

    def __init__(self, channels: int, operator: Callable[[int], Refine]) -> None:
        super().__init__(channels)
        self.operator = operator(channels)
        self.alpha = nn.Parameter(torch.full((), float(self.operator.starts_as_identity)))

    def forward(self, x: Tensor) -> Tensor:
        """Refines `x` (B, C, H, W) by as much as has been learned."""
        return torch.lerp(x, self.operator(x).to(x.dtype), self.alpha.to(x.dtype))
