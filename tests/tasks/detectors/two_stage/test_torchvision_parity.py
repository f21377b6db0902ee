"""The same weights give the same losses, boxes and masks as torchvision's own two-stage models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection

from backbones import ResNet
from tasks.detectors import Detector, FasterRCNN, MaskRCNN
from tasks.detectors.conversions import from_torchvision, is_torchvision
from tasks.detectors.two_stage.options import BoxHeadOptions, MaskHeadOptions, RPNOptions
from tests.tasks.detectors.photographs import photograph_batch

K = 90
EVERYTHING = 10**6
RPN = {"samples": EVERYTHING, "candidates_train": 60, "candidates_test": 50, "proposals_train": 40}
BOXES = {"samples": EVERYTHING, "positive_fraction": 0.5}
LIMITS = {"score_threshold": 0.02, "max_detections": 30}
PEER_LIMITS = {
    "rpn_batch_size_per_image": EVERYTHING,
    "rpn_pre_nms_top_n_train": 60,
    "rpn_pre_nms_top_n_test": 50,
    "rpn_post_nms_top_n_train": 40,
    "box_batch_size_per_image": EVERYTHING,
    "box_positive_fraction": 0.5,
    "box_score_thresh": 0.02,
    "box_detections_per_img": 30,
}
FIRST: dict[str, Any] = {
    "convention": "torchvision",
    "rpn": RPNOptions(**RPN),
    "box_head": BoxHeadOptions(**BOXES),
    **LIMITS,
}
SECOND: dict[str, Any] = {
    **FIRST,
    "pyramid_norm": True,
    "rpn": RPNOptions(convs=2, **RPN),
    "box_head": BoxHeadOptions(convs=4, fcs=1, **BOXES),
}
NORM = MaskHeadOptions(norm=True)
MODELS: dict[str, tuple[Callable[..., nn.Module], Callable[[], Detector]]] = {
    "faster": (detection.fasterrcnn_resnet50_fpn, lambda: FasterRCNN(ResNet(50), K, **FIRST)),
    "mask": (detection.maskrcnn_resnet50_fpn, lambda: MaskRCNN(ResNet(50), K, **FIRST)),
    "faster_v2": (detection.fasterrcnn_resnet50_fpn_v2, lambda: FasterRCNN(ResNet(50), K, **SECOND)),
    "mask_v2": (detection.maskrcnn_resnet50_fpn_v2, lambda: MaskRCNN(ResNet(50), K, mask_head=NORM, **SECOND)),
}
LOSSES = {
    "loss_objectness": "rpn_classification",
    "loss_rpn_box_reg": "rpn_bbox_regression",
    "loss_classifier": "classification",
    "loss_box_reg": "bbox_regression",
    "loss_mask": "mask",
}


def spread(peer: nn.Module) -> None:
    """Scores and offsets that differ from box to box, and norms that are not trivial."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in peer.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(1 + 0.2 * torch.rand(value.shape, generator=generator))
            elif "cls_" in name or "bbox_pred" in name or "mask_fcn_logits" in name:
                deviation = 0.02 if "bbox_pred" in name else 0.05
                value.copy_(deviation * torch.randn(value.shape, generator=generator))


def compare_masks(peer: nn.Module, ours: Any, batch: dict, images: list[Tensor]) -> None:
    """What is drawn in the same boxes, before it is pasted."""
    peer.eval(), ours.eval()
    boxes = [target["boxes"] for target in batch["targets"]]
    labels = [target["labels"] for target in batch["targets"]]
    with torch.no_grad():
        prepared, _ = peer.transform(images)
        maps = peer.backbone(prepared.tensors)
        heads = peer.roi_heads
        pooled = heads.mask_roi_pool(maps, boxes, prepared.image_sizes)
        drawn = heads.mask_predictor(heads.mask_head(pooled)).sigmoid()
        expected = drawn[torch.arange(len(drawn)), torch.cat(labels) + 1]
        features = ours.neck(ours.backbone(ours.image_list(batch).tensors))
        found = ours.draw(features, [{"boxes": b, "labels": c} for b, c in zip(boxes, labels, strict=True)])
    torch.testing.assert_close(torch.cat(found), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        # In every run: test_published_weights.py.
        pytest.param("mask_v2", marks=pytest.mark.slow),
        pytest.param("mask", marks=pytest.mark.slow),
        pytest.param("faster", marks=pytest.mark.slow),
        pytest.param("faster_v2", marks=pytest.mark.slow),
    ],
)
def test_losses_and_boxes(name: str, shared_data: Callable[[str], Path]) -> None:
    torch.manual_seed(0)
    build, build_ours = MODELS[name]
    peer = build(
        weights=None, weights_backbone=None, num_classes=K + 1, min_size=120, max_size=160, **PEER_LIMITS
    ).eval()
    spread(peer)
    ours = build_ours().eval()
    foreign = peer.state_dict()
    assert is_torchvision(foreign)
    ours.load_state_dict(from_torchvision(foreign))
    batch = photograph_batch(shared_data("coco-free"), {89: (120, 160), 73: (160, 120)}, (160, 160))
    images = [
        image[:, :height, :width] / 255
        for image, (height, width) in zip(batch["image"], batch["size"].tolist(), strict=True)
    ]
    targets = [{**target, "labels": target["labels"] + 1} for target in batch["targets"]]
    with torch.no_grad():
        found = ours(batch)
        expected = peer(images)
        for module in (peer, peer.rpn, peer.roi_heads, ours):
            module.training = True  # norms stay in evaluation mode
        losses, own = peer(images, targets), ours(batch)
    assert {LOSSES[key]: pytest.approx(value.item(), abs=1e-4) for key, value in losses.items()} == {
        key: value.item() for key, value in own.items()
    }
    for one, other, size, target in zip(found, expected, batch["size"], batch["targets"], strict=True):
        assert len(one["boxes"]) >= 10
        torch.testing.assert_close(one["scores"], other["scores"], rtol=0, atol=1e-4)
        assert torch.equal(one["labels"] + 1, other["labels"])
        scale = (target["original_size"] / size).flip(0).repeat(2)
        torch.testing.assert_close(one["boxes"] / scale, other["boxes"], rtol=0, atol=1e-2)
    if ours.with_masks:
        compare_masks(peer, ours, batch, images)
