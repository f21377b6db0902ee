"""Refinements combined, in order or side by side as the two of CBAM (Woo et al., ECCV 2018, arXiv 1807.06521)."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from attention.base import Refine, check_choice

Fusion = Literal["mean", "sum", "product"]


class Compose(Refine):
    """Refinements one after another.

        y = A_n(... A_2(A_1(x)))

    Channel attention, then spatial attention is CBAM's order (arXiv 1807.06521, section 3).

    Parameters: those of the parts. Cost: that of the parts.

    Place: where any of its parts could be inserted.

    Args:
        channels: Number of channels C of the map, at least 1.
        parts: Makes the refinements from the number of channels, first to last; at least one.
    """

    def __init__(self, channels: int, parts: list[Callable[[int], Refine]]) -> None:
        super().__init__(channels)
        self.parts = _made(channels, parts)
        self.starts_as_identity = all(part.starts_as_identity for part in _refinements(self.parts))

    def forward(self, x: Tensor) -> Tensor:
        """Refines `x` (B, C, H, W)."""
        for part in self.parts:
            x = part(x)
        return x


class Parallel(Refine):
    """Refinements of the same map, fused: what separate channel and spatial attention do when neither sees the other's.

        y = mean_i A_i(x),  sum_i A_i(x)  or  x prod_i (A_i(x) / x)     (B, C, H, W)

    With gates A_i(x) = x g_i these are x times the mean, the sum or the product of the gates. DANet adds its two
    attentions (arXiv 1809.02983); that such attentions, computed apart, may contradict each other is what channelized
    axial attention argues against (arXiv 2101.07434, section 1).

    The product is meant for gates: where x is zero, y and its gradient are.

    Parameters: those of the parts. Cost: that of the parts, and one pass over the map and each result.

    Place: where any of its parts could be inserted.

    Args:
        channels: Number of channels C of the map, at least 1.
        parts: Makes the refinements from the number of channels; at least one.
        fusion: `mean`, `sum` or `product`.
    """

    def __init__(self, channels: int, parts: list[Callable[[int], Refine]], fusion: Fusion = "mean") -> None:
        super().__init__(channels)
        check_choice("fusion", fusion, get_args(Fusion))
        self.fusion: Fusion = fusion
        self.parts = _made(channels, parts)
        self.starts_as_identity = fusion != "sum" and all(p.starts_as_identity for p in _refinements(self.parts))

    def forward(self, x: Tensor) -> Tensor:
        """Refines `x` (B, C, H, W)."""
        refined = [part(x) for part in self.parts]
        if self.fusion == "product":
            empty = x == 0
            divisor = torch.where(empty, 1, x)
            out = refined[0]
            for each in refined[1:]:
                out = out * (each / divisor)
            return torch.where(empty, 0, out) if len(refined) > 1 else out
        out = refined[0]
        for each in refined[1:]:
            out = out + each
        return out / len(refined) if self.fusion == "mean" else out


def _made(channels: int, parts: list[Callable[[int], Refine]]) -> nn.ModuleList:
    if not parts:
        raise ValueError("parts=[] combines nothing; give at least one refinement, such as [SqueezeExcitation]")
    return nn.ModuleList(part(channels) for part in parts)


def _refinements(parts: nn.ModuleList) -> list[Refine]:
    return [part for part in parts if isinstance(part, Refine)]
