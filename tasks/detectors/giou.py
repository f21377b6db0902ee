"""The generalised overlap of boxes as a loss."""

import torch
from torch import Tensor
from torchvision.ops import box_area

_EPSILON = 1e-7


def giou_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """1 - GIoU of pairs of boxes (Rezatofighi et al., CVPR 2019, arXiv 1902.09630).

    torchvision's `generalized_box_iou_loss` computes the same, but waits for the device.

    Args:
        found: (..., 4) xyxy.
        wanted: (..., 4) xyxy.

    Returns:
        (...) in 0..2.
    """
    corner, opposite = torch.maximum(found[..., :2], wanted[..., :2]), torch.minimum(found[..., 2:], wanted[..., 2:])
    common = (opposite - corner).clamp(min=0).prod(dim=-1)
    union = box_area(found) + box_area(wanted) - common
    hull = torch.maximum(found[..., 2:], wanted[..., 2:]) - torch.minimum(found[..., :2], wanted[..., :2])
    area = hull.prod(dim=-1)
    return 1 - common / (union + _EPSILON) + (area - union) / (area + _EPSILON)
