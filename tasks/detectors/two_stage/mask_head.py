"""The head that draws a mask in every box (Mask R-CNN, He et al., ICCV 2017, arXiv 1703.06870), and what it learns."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import roi_align

from attention.base import check_at_least
from tasks.detectors.head_operators import NO_OPERATORS, Operators, mix_convolutions, of_boxes
from tasks.detectors.two_stage.box_head import ClassColumns
from tasks.detectors.two_stage.convention import Convention
from tasks.detectors.two_stage.options import MaskHeadOptions
from tasks.precision import precise


class MaskHead(nn.Module):
    """Convolutions, a transposed one that doubles the sides, and a mask of every class.

    Args:
        channels: Channels of the pooled features.
        num_classes: K, without background.
        convention: What torchvision and MMDetection do differently.
        options: Everything else.
        operators: In place of the convolutions, and behind the last of them.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        convention: Convention,
        options: MaskHeadOptions,
        operators: Operators = NO_OPERATORS,
    ) -> None:
        super().__init__()
        check_at_least(1, convs=options.convs, channels=options.channels, pooled=options.pooled)
        self.masks = ClassColumns(num_classes, options.masks or convention.regressors, convention.background_first)
        norm = nn.BatchNorm2d if options.norm else None
        self.layers = MaskRCNNHeads(channels, [options.channels] * options.convs, 1, norm)
        if operators.head_mixer is not None:
            mix_convolutions(self.layers, operators.head_mixer)
        if operators.head_attention is not None:
            self.layers.append(operators.head_attention(options.channels))
        self.predictor = MaskRCNNPredictor(options.channels, options.channels, self.masks.count)

    def forward(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """Logits (N, 2 side, 2 side) of the masks of labels (N,) 0..K-1, from pooled features (N, C, side, side)."""
        logits: Tensor = precise(self.predictor(of_boxes(self.layers, pooled)))
        return logits[torch.arange(len(labels), device=labels.device), self.masks.of_labels(labels)]


def mask_targets(masks: Tensor, numbers: Tensor, boxes: Tensor, side: int, convention: Convention) -> Tensor:
    """What is to be drawn in boxes (N, 4), (N, side, side) in 0..1.

    Args:
        masks: (G, h, w) 0 or 1, of all objects of an image.
        numbers: (N,) the object of each box.
        boxes: (N, 4) xyxy in the masks' pixels.
        side: Cells of a side.
        convention: Where cells lie, and whether they are 0 and 1.
    """
    rois = torch.cat([numbers[:, None].to(boxes), boxes], dim=1)
    shares = roi_align(masks[:, None].to(boxes), rois, side, aligned=convention.aligned)[:, 0]
    return (shares >= 0.5).to(shares) if convention.binary_masks else shares


def mask_loss(logits: Tensor, targets: Tensor, number: Tensor) -> Tensor:
    """Binary cross-entropy of logits (N, side, side), averaged over the cells of a number of masks."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / (number * logits[0].numel())
