"""Crowd regions: many objects in one box, of which nobody knows where each is."""

import torch
from torch import Tensor
from torchvision.ops import box_area

_INSIDE = 0.5


def inside_crowds(boxes: Tensor, crowds: Tensor) -> Tensor:
    """Which boxes have at least half of their own area in one crowd region.

    Args:
        boxes: (N, 4) xyxy.
        crowds: (C, 4) xyxy.

    Returns:
        (N,) bool.
    """
    corner = torch.maximum(boxes[:, None, :2], crowds[:, :2])
    sides = (torch.minimum(boxes[:, None, 2:], crowds[:, 2:]) - corner).clamp(min=0)  # (N, C, 2)
    return (sides.prod(dim=-1) >= _INSIDE * box_area(boxes)[:, None]).any(dim=1)
