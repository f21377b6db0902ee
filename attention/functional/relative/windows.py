"""Blocks of queries and the windows of keys that they see."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Which keys a query sees, in cells of the map.

    Attributes:
        block: Rows and columns of a block.
        halo: Cells around its block that a window adds on every side.
        stride: Distance between queries; divides both sides of a block.
        step: Distance between the table entries of neighbouring queries: the stride, or 1 in timm's halo attention.
        masked: Whether keys outside the map are left out of the softmax. They have zero keys and values otherwise.
        whole: Whether the block is the whole map, whatever its size.
    """

    block: tuple[int, int]
    halo: int = 0
    stride: int = 1
    step: int = 1
    masked: bool = False
    whole: bool = False

    @property
    def queries(self) -> tuple[int, int]:
        """Rows and columns of queries in a block."""
        return self.block[0] // self.stride, self.block[1] // self.stride

    @property
    def entries(self) -> tuple[int, int]:
        """Number of entries that the row and the column table must have."""
        rows, columns = (
            side + 2 * self.halo + self.step * (queries - 1)
            for side, queries in zip(self.block, self.queries, strict=True)
        )
        return rows, columns

    def blocks(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of blocks on a map."""
        if self.whole:
            return 1, 1
        return (height + self.block[0] - 1) // self.block[0], (width + self.block[1] - 1) // self.block[1]

    def keys(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Row of every key in the windows of a row of blocks, (down, h), and columns alike, (right, w)."""
        rows, columns = (
            (torch.arange(number, device=device) * side - self.halo).unsqueeze(1)
            + torch.arange(side + 2 * self.halo, device=device)
            for number, side in zip(self.blocks(height, width), self.block, strict=True)
        )
        return rows, columns

    def arguments(self) -> tuple[list[int], int, int, int, bool, bool]:
        """The attributes, as operators of PyTorch take them."""
        return [*self.block], self.halo, self.stride, self.step, self.masked, self.whole
