"""Boxes as offsets from other boxes, which is what regressors learn (R-CNN, arXiv 1311.2524, appendix C)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Deviations = tuple[float, float, float, float]


@dataclass(frozen=True)
class BoxCoding:
    """Offsets (dx, dy, dw, dh): the way of the centre in sides of the reference, and log ratios of the sides.

    Attributes:
        deviations: What each offset is divided by, its usual deviation.
        clip_shrinking: Whether boxes are kept from shrinking too much as well as from growing too much.
        largest: Largest log ratio of two sides.
    """

    deviations: Deviations
    clip_shrinking: bool
    largest: float = math.log(1000 / 16)

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Offsets (..., 4) from references to boxes, both (..., 4) xyxy."""
        x, y, width, height = _centres(boxes)
        from_x, from_y, from_width, from_height = _centres(references)
        offsets = (
            (x - from_x) / from_width,
            (y - from_y) / from_height,
            (width / from_width).log(),
            (height / from_height).log(),
        )
        return torch.stack([offset / by for offset, by in zip(offsets, self.deviations, strict=True)], dim=-1)

    def decode(self, offsets: Tensor, references: Tensor) -> Tensor:
        """Boxes (..., 4) xyxy from offsets (..., 4) and references (..., 4), which may be broadcast."""
        scaled = [offset * by for offset, by in zip(offsets.unbind(-1), self.deviations, strict=True)]
        from_x, from_y, from_width, from_height = _centres(references)
        smallest = -self.largest if self.clip_shrinking else None
        half_width, half_height = (
            log_ratio.clamp(smallest, self.largest).exp() * side / 2
            for log_ratio, side in zip(scaled[2:], (from_width, from_height), strict=True)
        )
        x, y = scaled[0] * from_width + from_x, scaled[1] * from_height + from_y
        return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=-1)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre, width and height of boxes (..., 4) xyxy."""
    left, top, right, bottom = boxes.unbind(-1)
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
