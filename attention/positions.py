"""Absolute positions that the input of an attention gets, for ablations beside relative ones.

Both forms have no parameters and depend on the size of the map: sines as in Vaswani et al. (NeurIPS 2017, arXiv
1706.03762), extended to two dimensions, and the coordinates of CoordConv (Liu et al., NeurIPS 2018, arXiv 1807.03247).
"""

from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["sinusoidal", "coord_conv", "none"]
_PERIOD = 10000.0


class InputPositions(nn.Module):
    """A map that knows where its cells are.

        sinusoidal: x + [s(row); s(column)]     s(p)_2t = sin(p / 10000^(4 t / C)), s(p)_2t+1 the cosine; C / 2 each
        coord_conv: [x; column; row; radius]    column and row from -1 to 1, radius = sqrt(column^2 + row^2)

    Of a single row or column the coordinate is 0. Everything is computed in float32 or better and rounded to the map.

    Args:
        channels: Number of channels C of the map, for `sinusoidal` a multiple of 4.
        kind: `sinusoidal`, `coord_conv`, or `none`, which returns the map as it is.

    Attributes:
        out_channels: Number of channels of the result.
    """

    def __init__(self, channels: int, kind: Kind) -> None:
        super().__init__()
        if kind == "sinusoidal" and channels % 4:
            raise ValueError(
                f"channels={channels} cannot hold sines and cosines of two directions; give a multiple of 4, or take "
                "other positions"
            )
        self.kind: Kind = kind
        self.out_channels = channels + 3 if kind == "coord_conv" else channels

    def forward(self, x: Tensor) -> Tensor:
        """`x` (B, C, H, W) with positions, (B, out_channels, H, W)."""
        if self.kind == "none":
            return x
        precision = torch.promote_types(x.dtype, torch.float32)
        rows, columns = (torch.arange(size, device=x.device, dtype=precision) for size in x.shape[2:])
        if self.kind == "sinusoidal":
            half = x.shape[1] // 2
            of_rows = _sines(rows, half).unsqueeze(2).expand(-1, -1, x.shape[3])
            of_columns = _sines(columns, half).unsqueeze(1).expand(-1, x.shape[2], -1)
            return x + torch.cat([of_rows, of_columns]).to(x.dtype)
        row, column = _centred(rows).unsqueeze(1), _centred(columns).unsqueeze(0)
        radius = torch.sqrt(row.square() + column.square())  # (H, W)
        planes = torch.stack([column.expand_as(radius), row.expand_as(radius), radius])
        return torch.cat([x, planes.to(x.dtype).expand(x.shape[0], -1, -1, -1)], 1)


def _sines(places: Tensor, channels: int) -> Tensor:
    """Sines and cosines (channels, L) of places (L), in turn."""
    exponents = torch.arange(0, channels, 2, device=places.device, dtype=places.dtype) / channels
    angles = places * (_PERIOD**-exponents).unsqueeze(1)  # (channels / 2, L)
    return torch.stack([angles.sin(), angles.cos()], 1).flatten(0, 1)


def _centred(places: Tensor) -> Tensor:
    """Places 0, 1, .. as coordinates from -1 to 1."""
    doubled = 2 * places - places[-1]
    return doubled / doubled[-1].clamp(min=1)
