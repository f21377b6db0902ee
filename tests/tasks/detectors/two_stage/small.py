"""Two-stage detectors that are small enough for a test, and batches for them."""

from collections.abc import Callable
from typing import Any

import torch

from backbones import ResNet
from datamodules.sampling import SampleKey
from tasks.detectors import CascadeMaskRCNN, CascadeRCNN, Detector, FasterRCNN, MaskRCNN
from tasks.detectors.two_stage.options import BoxHeadOptions, MaskHeadOptions, RPNOptions

K = 5
RPN = RPNOptions(
    anchor_scale=4.0, samples=40, candidates_train=60, candidates_test=50, proposals_train=70, proposals_test=60
)
BOX = BoxHeadOptions(fc_channels=24, samples=32)
CONVS = BoxHeadOptions(convs=1, conv_channels=8, fcs=1, fc_channels=24, samples=32, loss="giou")
MASK = MaskHeadOptions(convs=1, channels=8)
NORMED = MaskHeadOptions(convs=1, channels=8, norm=True)
SMALL: dict[str, Any] = {"channels": 16, "rpn": RPN}
BUILDERS: dict[str, Callable[..., Detector]] = {
    "faster": lambda **more: FasterRCNN(ResNet(18), K, box_head=BOX, **SMALL, **more),
    "mask": lambda **more: MaskRCNN(ResNet(18), K, box_head=BOX, mask_head=NORMED, **SMALL, **more),
    "mask_torchvision": lambda **more: MaskRCNN(
        ResNet(18), K, "torchvision", pyramid_norm=True, box_head=CONVS, mask_head=MASK, **SMALL, **more
    ),
    "cascade": lambda **more: CascadeRCNN(
        ResNet(18), K, box_head=BoxHeadOptions(fc_channels=24, samples=32, regressors="shared"), **SMALL, **more
    ),
    "cascade_mask": lambda **more: CascadeMaskRCNN(ResNet(18), K, box_head=CONVS, mask_head=MASK, **SMALL, **more),
}

BOXES = [[[10.0, 12.0, 60.0, 75.0], [40.0, 5.0, 92.0, 50.0]], [[20.0, 31.0, 91.0, 120.0]]]


def small_batch(boxes: list[list[list[float]]] | None = None, frame: tuple[int, int] = (128, 128)) -> dict:
    """Two images of noise, 96 x 128 and 128 x 100, whose objects are ellipses; originals are twice as large."""
    generator = torch.Generator().manual_seed(0)
    sizes, targets = [(96, 128), (128, 100)], []
    image = torch.zeros(2, 3, *frame, dtype=torch.uint8)
    for position, ((height, width), rows) in enumerate(zip(sizes, BOXES if boxes is None else boxes, strict=True)):
        image[position, :, :height, :width] = torch.randint(0, 256, (3, height, width), generator=generator)
        corners = torch.tensor(rows).reshape(-1, 4)
        middle, half = (corners[:, :2] + corners[:, 2:]) / 2, (corners[:, 2:] - corners[:, :2]) / 2
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        ways = (torch.stack([x, y], dim=-1) - middle[:, None, None]) / half[:, None, None]
        targets.append(
            {
                "image_id": position + 1,
                "original_size": torch.tensor([2 * height, 2 * width]),
                "boxes": corners,
                "labels": torch.arange(len(rows)) % K,
                "masks": (ways.square().sum(-1) <= 1).to(torch.uint8),
                "crowd": torch.zeros(0, 4),
            }
        )
    keys = [SampleKey(0, 7, False), SampleKey(0, 11, False)]
    return {"image": image, "size": torch.tensor(sizes), "targets": targets, "keys": keys}


def spread(model: torch.nn.Module) -> None:
    """Logits and offsets that differ from box to box, as after training."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "cls_" in name or "bbox_pred" in name or "mask_fcn_logits" in name:
                deviation = 0.1 if "bbox_pred" in name else 0.5
                value.copy_(deviation * torch.randn(value.shape, generator=generator))
