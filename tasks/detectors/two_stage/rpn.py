"""Region proposal network (Faster R-CNN, Ren et al., NeurIPS 2015, arXiv 1506.01497)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from tasks.detectors.crowds import inside_crowds
from tasks.detectors.head_operators import NO_OPERATORS, Operators, mix_convolutions
from tasks.detectors.two_stage.anchors import Anchors, Size
from tasks.detectors.two_stage.assignment import Assignment
from tasks.detectors.two_stage.box_coding import BoxCoding
from tasks.detectors.two_stage.convention import Convention
from tasks.detectors.two_stage.options import RPNOptions
from tasks.detectors.two_stage.sampling import Generators, Sampling, draw
from tasks.precision import precise
from tasks.reduction import reduce_mean

Target = dict[str, Tensor]


@dataclass(frozen=True)
class ScoredAnchors:
    """What the network says of the anchors of every level, in float32 or better.

    Attributes:
        logits: (B, n) of being an object.
        offsets: (B, n, 4) to a better box.
        anchors: (n, 4) xyxy in pixels.
        maps: (B, C, H, W) that they were made from.
    """

    logits: list[Tensor]
    offsets: list[Tensor]
    anchors: list[Tensor]
    maps: list[Tensor]


@dataclass(frozen=True)
class Proposals:
    """Boxes of a batch that may hold an object.

    Attributes:
        boxes: (P, 4) of every image, xyxy in pixels.
        origins: (P,) of every image, the number of the anchor that each box was made from. Random numbers belong to it
            and not to the box's place, which rounding may change where two boxes have the same score.
        anchors: Number of all anchors.
    """

    boxes: list[Tensor]
    origins: list[Tensor]
    anchors: int


class RegionProposals(nn.Module):
    """Scores anchors, proposes the best ones after a first move, and learns both.

    Args:
        channels: Channels of the pyramid.
        strides: Strides of its levels in pixels.
        convention: What torchvision and MMDetection do differently.
        options: Everything else.
        cascade: Whether a cascade follows, for which MMDetection has other defaults.
        ignore_crowds: Whether anchors in crowd regions are ignored in training.
        operators: In place of the head's 3x3 convolutions, and behind the last of them; the same for all levels.
    """

    def __init__(
        self,
        channels: int,
        strides: list[int],
        convention: Convention,
        options: RPNOptions,
        cascade: bool,
        ignore_crowds: bool,
        operators: Operators = NO_OPERATORS,
    ) -> None:
        super().__init__()
        self.anchors = Anchors(strides, options.anchor_scale, options.ratios, convention)
        self.head = RPNHead(channels, self.anchors.per_cell, options.convs)
        if operators.head_mixer is not None:
            mix_convolutions(self.head.conv, operators.head_mixer)
        if operators.head_attention is not None:
            self.head.conv.append(operators.head_attention(channels))
        self.convention, self.options, self.ignore_crowds = convention, options, ignore_crowds
        self.coding = BoxCoding((1.0, 1.0, 1.0, 1.0), convention.clip_shrinking)
        self.assignment = Assignment(
            options.positive_iou, options.negative_iou, convention.low_quality, convention.low_quality_minimum
        )
        self.sampling = Sampling(options.samples, options.positive_fraction)
        beta = convention.cascade_rpn_beta if cascade else convention.beta
        self.beta = beta if options.beta is None else options.beta
        self.inside = cascade and convention.inside_anchors if options.inside is None else options.inside
        proposals = convention.cascade_proposals if cascade else convention.proposals
        self.proposals_train = proposals if options.proposals_train is None else options.proposals_train

    def forward(self, features: list[Tensor], frame: Size) -> ScoredAnchors:
        """Scores the anchors of maps (B, C, H, W), finest first, of a padded batch of height and width `frame`."""
        logits, offsets = (
            [precise(of_level).permute(0, 2, 3, 1) for of_level in of_kind] for of_kind in self.head(features)
        )
        return ScoredAnchors(
            [of_level.flatten(1) for of_level in logits],
            [of_level.reshape(len(of_level), -1, 4) for of_level in offsets],
            self.anchors(features, frame, logits[0].dtype),
            features,
        )

    @torch.no_grad()
    def propose(self, scored: ScoredAnchors, sizes: list[Size], training: bool) -> Proposals:
        """Proposals of every image, best first.

        Args:
            scored: Anchors.
            sizes: Height and width of every image without padding.
            training: Whether they are trained on, for which there are numbers of their own.
        """
        count = self.options.candidates_train if training else self.options.candidates_test
        limit = self.proposals_train if training else self.options.proposals_test
        boxes, scores, levels, origins, before = [], [], [], [], 0
        for number, logits in enumerate(scored.logits):
            best, places = logits.topk(min(count, logits.shape[1]), dim=1)
            offsets = scored.offsets[number].gather(1, places[..., None].expand(-1, -1, 4))
            boxes.append(self.coding.decode(offsets, scored.anchors[number][places]))
            scores.append(best.sigmoid())
            levels.append(torch.full_like(places, number))
            origins.append(before + places)
            before += logits.shape[1]
        candidates = (torch.cat(parts, dim=1) for parts in (boxes, scores, levels, origins))
        found = Proposals([], [], before)
        for of_image, chances, groups, anchors, size in zip(*candidates, sizes, strict=True):
            clipped = clip_boxes_to_image(of_image, size)
            kept = remove_small_boxes(clipped, self.convention.smallest_proposal)
            best = batched_nms(clipped[kept], chances[kept], groups[kept], self.options.nms_threshold)
            kept = kept[best[:limit]]
            found.boxes.append(clipped[kept])
            found.origins.append(anchors[kept])
        return found

    def losses(
        self, scored: ScoredAnchors, sizes: list[Size], targets: list[Target], generators: Generators
    ) -> dict[str, Tensor]:
        """Binary cross-entropy of the sampled anchors, and the loss of the positive ones' offsets.

        Args:
            scored: Anchors.
            sizes: Height and width of every image without padding.
            targets: `boxes` (G, 4) of the objects of every image, and `crowd` (C, 4) where crowds are ignored.
            generators: Random numbers of every image.
        """
        anchors = torch.cat(scored.anchors)
        places, positive, used, wanted = [], [], [], []
        for size, target, generator in zip(sizes, targets, generators, strict=True):
            assigned = self.assignment(anchors, target["boxes"], self._outside(scored, anchors, size, target))
            chosen = self.sampling(assigned, draw(len(assigned), generator, assigned.device))
            own = anchors[chosen.indices]
            objects = torch.cat([target["boxes"], own.new_zeros(1, 4)])[assigned[chosen.indices].clamp(min=-1)]
            wanted.append(self.coding.encode(torch.where(chosen.positive[:, None], objects, own), own))
            places.append(chosen.indices)
            positive.append(chosen.positive)
            used.append(chosen.used)
        is_object, counts, index = torch.stack(positive), torch.stack(used), torch.stack(places)  # (B, S)
        divisor = reduce_mean(self._number(is_object, counts))
        logits = torch.cat(scored.logits, dim=1).gather(1, index)
        offsets = torch.cat(scored.offsets, dim=1).gather(1, index[..., None].expand(-1, -1, 4))
        entropy = F.binary_cross_entropy_with_logits(logits, is_object.to(logits), reduction="none")
        distance = F.smooth_l1_loss(offsets, torch.stack(wanted).to(offsets), beta=self.beta, reduction="none")
        return {
            "rpn_classification": (entropy * counts).sum() / divisor,
            "rpn_bbox_regression": (distance * is_object[..., None]).sum() / divisor,
        }

    def _outside(self, scored: ScoredAnchors, anchors: Tensor, size: Size, target: Target) -> Tensor:
        """Which anchors (A,) take no part in training on an image."""
        outside = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
        if self.convention.anchors_per_image:
            outside |= self.anchors.beyond_padding(scored.maps, size)
        if self.inside:
            outside |= (anchors[:, :2] < 0).any(dim=1) | (anchors[:, 2] >= size[1]) | (anchors[:, 3] >= size[0])
        if self.ignore_crowds:
            outside |= inside_crowds(anchors, target["crowd"])
        return outside

    def _number(self, positive: Tensor, used: Tensor) -> Tensor:
        """Number of sampled anchors (B, S) of the batch, as the convention counts."""
        positives, sampled = positive.sum(dim=1), used.sum(dim=1)
        if self.convention.at_least_one:
            sampled = positives.clamp(min=1) + (sampled - positives).clamp(min=1)
        return sampled.sum()
