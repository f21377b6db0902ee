"""Detectors that look twice: proposals, then heads on what was pooled from them, in one stage or several."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from backbones import Backbone
from tasks.batch import Batch
from tasks.class_tensors import ClassRows
from tasks.detectors.base import Detections, Detector
from tasks.detectors.head_operators import NO_OPERATORS, Operators
from tasks.detectors.instance_masks import encode_masks
from tasks.detectors.pyramid import FeaturePyramid
from tasks.detectors.two_stage.box_head import BoxHead
from tasks.detectors.two_stage.convention import ConventionName, LowQuality, find_convention
from tasks.detectors.two_stage.detections import DetectionRules
from tasks.detectors.two_stage.mask_head import MaskHead, mask_loss, mask_targets
from tasks.detectors.two_stage.options import BoxHeadOptions, CascadeOptions, MaskHeadOptions, RPNOptions
from tasks.detectors.two_stage.roi_pooling import RoIPooling, numbered
from tasks.detectors.two_stage.roi_samples import Samples, sample_boxes
from tasks.detectors.two_stage.rpn import Proposals, RegionProposals
from tasks.detectors.two_stage.sampling import Generators, image_generators
from tasks.detectors.two_stage.stage import make_stages
from tasks.losses import Losses
from tasks.normalization import Normalization
from tasks.precision import precise_arithmetic
from tasks.reduction import reduce_mean

STRIDES = [4, 8, 16, 32]
"""Strides of the levels that features are pooled from."""


class TwoStageDetector(Detector):
    """Base of detectors of two stages: backbone, pyramid, region proposals, and one or several stages of heads.

    Attributes:
        seed: Start of the random choice of anchors and proposals in training; the run sets it.

    Args:
        backbone: Its features of stride 4 to 32 are used.
        num_classes: K.
        convention: Whose habits are followed where torchvision and MMDetection differ.
        channels: Channels of the pyramid.
        pyramid_norm: Whether batch normalisations follow the pyramid's convolutions.
        rpn: Options of the region proposal network.
        box_head: Options of the box heads.
        ignore_crowds: Whether anchors and proposals in crowd regions are ignored in training.
        limits: Score that detections exceed, IoU above which the weaker of two is dropped, and detections of an image.
        mask_head: Options of the mask heads; None for boxes alone.
        stages: The stages of a cascade, which has other defaults and names its losses by stage; None for one stage.
        operators: What stands in the pyramid and the heads.
    """

    neck: FeaturePyramid
    box_heads: Any  # nn.ModuleList of `BoxHead`
    mask_heads: Any  # nn.ModuleList of `MaskHead`
    seed: int = 0

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        convention: ConventionName,
        channels: int,
        pyramid_norm: bool,
        rpn: RPNOptions,
        box_head: BoxHeadOptions,
        ignore_crowds: bool,
        limits: tuple[float, float, int],
        mask_head: MaskHeadOptions | None = None,
        stages: CascadeOptions | None = None,
        operators: Operators = NO_OPERATORS,
    ) -> None:
        super().__init__()
        habits = find_convention(convention)
        norm = nn.BatchNorm2d if pyramid_norm else None
        self.neck = FeaturePyramid(
            backbone,
            channels,
            STRIDES[0],
            2 * STRIDES[-1],
            "max_pool",
            norm=norm,
            mixer=operators.pyramid_mixer,
            attention=operators.pyramid_attention,
        )
        if not self.neck.simple and list(backbone.strides) != STRIDES:
            raise ValueError(
                f"the backbone has strides {backbone.strides}, {type(self).__name__} needs 4, 8, 16 and 32; choose "
                "another backbone, or output_stride 32"
            )
        self.normalization = Normalization()
        self.backbone = backbone
        self.convention, self.num_classes, self.ignore_crowds = habits, num_classes, ignore_crowds
        cascade = stages is not None
        self.rpn = RegionProposals(channels, self.neck.scales, habits, rpn, cascade, ignore_crowds, operators)
        # An object's best proposal is its own even if another object fits it better: MMDetection's Mask R-CNN alone.
        single_with_masks = mask_head is not None and stages is None
        low_quality: LowQuality = habits.second_stage_low_quality if single_with_masks else "none"
        self.stages = make_stages(stages, box_head, habits, low_quality)
        self.box_pooling = RoIPooling(STRIDES, box_head.pooled, habits)
        self.box_heads = nn.ModuleList(BoxHead(channels, num_classes, habits, box_head, operators) for _ in self.stages)
        self.mask_heads = nn.ModuleList()
        if mask_head is not None:
            self.mask_pooling = RoIPooling(STRIDES, mask_head.pooled, habits)
            self.mask_heads.extend(MaskHead(channels, num_classes, habits, mask_head, operators) for _ in self.stages)
        self.rules = DetectionRules(*limits, habits.smallest_detection)

    def forward(self, batch: Batch) -> Losses | Detections:
        """Backbone, neck, proposals, heads; then losses or detections."""
        images = self.image_list(batch)
        features = self.neck(self.backbone(images.tensors))
        scored = self.rpn(features, images.tensors.shape[-2:])
        with precise_arithmetic():
            proposals = self.rpn.propose(scored, images.image_sizes, self.training)
            limits = batch["size"].flip(1).repeat(1, 2)  # (B, 4) width, height, width, height
            if not self.training:
                return self.detect(features, proposals.boxes, limits, images, batch)
            targets = batch["targets"]
            generators = image_generators(batch.get("keys"), len(targets), self.seed, features[0].device)
            first = self.rpn.losses(scored, images.image_sizes, targets, generators)
            return Losses({**first, **self.stage_losses(features, proposals, limits, targets, generators)})

    def stage_losses(
        self,
        features: list[Tensor],
        proposals: Proposals,
        limits: Tensor,
        targets: list[dict[str, Tensor]],
        generators: Generators,
    ) -> dict[str, Tensor]:
        """The losses of all stages, each of which is trained on the boxes of the one before."""
        losses: dict[str, Tensor] = {}
        for number, (stage, head) in enumerate(zip(self.stages, self.box_heads, strict=True)):
            with torch.no_grad():
                samples = sample_boxes(
                    proposals,
                    targets,
                    generators,
                    stage.assignment,
                    stage.sampling,
                    self.num_classes,
                    self.ignore_crowds,
                )
                count = reduce_mean(samples.labels.new_tensor(len(samples.labels)))
            logits, offsets = head(self.box_pooling(features, samples.rois))
            losses |= stage.losses(head, samples, logits, offsets, count)
            if self.mask_heads:
                mask = self.mask_loss(self.mask_heads[number], features, samples, targets)
                losses[f"{stage.name}mask"] = stage.weight * mask
            if number + 1 < len(self.stages):
                moved = stage.moved(head, samples.rois, logits, offsets, limits, samples.labels)
                proposals = samples.followed_by(moved)
        return losses

    def mask_loss(
        self, head: MaskHead, features: list[Tensor], samples: Samples, targets: list[dict[str, Tensor]]
    ) -> Tensor:
        """The loss of the masks in those boxes that have an object.

        Raises:
            ValueError: The objects have no masks.
        """
        if not all("masks" in target for target in targets):
            raise ValueError(f"{type(self).__name__} learns masks, and the objects have none; use --data.masks true")
        found = samples.found
        count = reduce_mean(found.new_tensor(len(found)))
        if not len(found):  # one box without an object: batch norms need values, and parameters gradients
            nothing = head(self.mask_pooling(features, samples.rois[:1]), samples.labels[:1].clamp(max=0))
            return nothing.sum() * 0
        rois, labels = samples.rois[found], samples.labels[found]
        logits = head(self.mask_pooling(features, rois), labels)
        with torch.no_grad():
            numbers, boxes = samples.numbers[found].split(samples.counts), rois[:, 1:].split(samples.counts)
            wanted = torch.cat(
                [
                    mask_targets(target["masks"], own, of_image, logits.shape[-1], self.convention)
                    for target, own, of_image in zip(targets, numbers, boxes, strict=True)
                ]
            )
        return mask_loss(logits, wanted.to(logits), count)

    def detect(
        self, features: list[Tensor], proposals: list[Tensor], limits: Tensor, images: ImageList, batch: Batch
    ) -> Detections:
        """Detections of every image: boxes of the last stage, scores and masks of all of them."""
        rois, counts = numbered(proposals), [len(of_image) for of_image in proposals]
        logits: list[Tensor] = []
        for number, (stage, head) in enumerate(zip(self.stages, self.box_heads, strict=True)):
            own, offsets = head(self.box_pooling(features, rois))
            logits.append(own)
            if number + 1 < len(self.stages):
                rois = stage.moved(head, rois, own, offsets, limits, labels=None)
        boxes, mean = list(rois[:, 1:].split(counts)), torch.stack(logits).mean(dim=0)
        detections = self.rules(boxes, mean, offsets, head, stage.coding, images.image_sizes)
        masks = self.draw(features, detections) if self.mask_heads else None
        detections = self.to_original(detections, batch)
        for found, target, drawn in zip(detections, batch["targets"], masks or (), strict=False):
            height, width = target["original_size"].tolist()
            found["masks"] = encode_masks(drawn, found["boxes"], (height, width), self.convention.name)
        return detections

    def draw(self, features: list[Tensor], detections: Detections) -> list[Tensor]:
        """Masks (N, M, M) in 0..1 in the boxes of every image: the mean of what the stages draw."""
        boxes, labels = [found["boxes"] for found in detections], [found["labels"] for found in detections]
        pooled, classes = self.mask_pooling(features, numbered(boxes)), torch.cat(labels)
        drawn = torch.stack([head(pooled, classes).sigmoid() for head in self.mask_heads]).mean(dim=0)
        return list(drawn.split([len(of_image) for of_image in boxes]))

    def class_tensors(self) -> dict[str, ClassRows | None]:
        """Rows of the classifiers, of the regressors (four of each class) and of the last convolutions of masks."""
        found: dict[str, ClassRows | None] = {}
        for number, head in enumerate(self.box_heads):
            found[f"box_heads.{number}.cls_score"] = head.classes.rows()
            found[f"box_heads.{number}.bbox_pred"] = head.regressors.rows(width=4)
        for number, head in enumerate(self.mask_heads):
            found[f"mask_heads.{number}.predictor.mask_fcn_logits"] = head.masks.rows()
        return {
            f"{layer}.{name}": rows for layer, rows in found.items() if rows is not None for name in ("weight", "bias")
        }
