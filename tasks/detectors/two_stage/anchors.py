"""Anchors of the region proposal network, by either library's convention."""

import torch
from torch import Tensor

from tasks.detectors.two_stage.convention import Convention

Size = tuple[int, int]
"""Height and width."""


class Anchors:
    """Boxes of fixed sizes around every cell of every level.

    A cell at row i and column j has anchors around (j, i) times the stride, the top left corner of what it sees.

    Args:
        strides: Pixels of the image per cell of each level, finest first.
        scale: Side of a square anchor, in strides.
        ratios: Height over width of the anchors of a cell, whose areas are equal.
        convention: Whether anchors are rounded, and how far apart they are.
    """

    def __init__(self, strides: list[int], scale: float, ratios: tuple[float, ...], convention: Convention) -> None:
        self.strides, self.scale, self.ratios = strides, scale, ratios
        self.convention = convention
        self._cells: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    @property
    def per_cell(self) -> int:
        """Number of anchors of a cell."""
        return len(self.ratios)

    def __call__(self, maps: list[Tensor], frame: Size, dtype: torch.dtype) -> list[Tensor]:
        """Anchors of every level, (H * W * per_cell, 4) xyxy in pixels: row by row, the anchors of a cell together.

        Args:
            maps: (B, C, H, W), finest first.
            frame: Height and width of the padded batch.
            dtype: Type of the result, float32 or better.
        """
        levels = []
        device = maps[0].device
        for of_level, stride, of_cell in zip(maps, self.strides, self._around_zero(device, dtype), strict=True):
            rows, columns = of_level.shape[-2:]
            down, right = (frame[0] // rows, frame[1] // columns) if self.convention.measured_strides else [stride] * 2
            y = torch.arange(rows, device=device, dtype=dtype) * down
            x = torch.arange(columns, device=device, dtype=dtype) * right
            y, x = torch.meshgrid(y, x, indexing="ij")
            centres = torch.stack([x, y, x, y], dim=-1)  # (H, W, 4)
            levels.append((centres[:, :, None] + of_cell).reshape(-1, 4))
        return levels

    def beyond_padding(self, maps: list[Tensor], size: Size, multiple: int = 32) -> Tensor:
        """Which anchors (A,) of all levels lie beyond an image's own padding, in the padding of a larger one.

        Args:
            maps: (B, C, H, W), finest first.
            size: Height and width of the image.
            multiple: Pixels that the sides of an image are padded to a multiple of.
        """
        levels = []
        height, width = (-(-side // multiple) * multiple for side in size)
        for of_level, stride in zip(maps, self.strides, strict=True):
            beyond = torch.ones(of_level.shape[-2:], dtype=torch.bool, device=of_level.device)
            beyond[: -(-height // stride), : -(-width // stride)] = False
            levels.append(beyond.flatten().repeat_interleave(self.per_cell))
        return torch.cat(levels)

    def _around_zero(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Anchors (levels, per_cell, 4) around the origin; kept, or every step would wait for a copy to the device."""
        if (device, dtype) not in self._cells:
            sides = self.scale * torch.tensor(self.strides, dtype=torch.float32)[:, None]
            roots = torch.tensor(self.ratios, dtype=torch.float32).sqrt()
            widths, heights = sides * (1 / roots), sides * roots
            cells = torch.stack([-widths, -heights, widths, heights], dim=-1) / 2
            self._cells[device, dtype] = (cells.round() if self.convention.rounded_anchors else cells).to(device, dtype)
        return self._cells[device, dtype]
