"""The boxes that a stage is trained on, chosen among proposals and the objects themselves."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.detectors.crowds import inside_crowds
from tasks.detectors.two_stage.assignment import Assignment
from tasks.detectors.two_stage.roi_pooling import numbered
from tasks.detectors.two_stage.rpn import Proposals, Target
from tasks.detectors.two_stage.sampling import Generators, Sampling, draw


@dataclass(frozen=True)
class Samples:
    """Boxes of a batch, image by image.

    Attributes:
        rois: (S, 5) number of the image, and box xyxy in pixels.
        labels: (S,) class 0..K-1 of the object that each box is to find, K for the background.
        numbers: (S,) the object's number in its image; without meaning for the background.
        objects: (S, 4) the object's box; the box itself for the background.
        origins: (S,) the anchor that each box was made from; -1 for an object that was added to the proposals.
        found: (F,) places of the boxes that have an object.
        counts: Number of these in every image.
        anchors: Number of all anchors.
    """

    rois: Tensor
    labels: Tensor
    numbers: Tensor
    objects: Tensor
    origins: Tensor
    found: Tensor
    counts: list[int]
    anchors: int

    def followed_by(self, rois: Tensor) -> Proposals:
        """What the next stage gets: these boxes after their move (S, 5), without the objects that were added."""
        kept = (self.origins >= 0).nonzero()[:, 0]
        counts = torch.bincount(rois[kept, 0].long(), minlength=len(self.counts)).tolist()
        return Proposals(list(rois[kept, 1:].split(counts)), list(self.origins[kept].split(counts)), self.anchors)


def sample_boxes(
    proposals: Proposals,
    targets: list[Target],
    generators: Generators,
    assignment: Assignment,
    sampling: Sampling,
    background: int,
    ignore_crowds: bool,
) -> Samples:
    """Chooses boxes of every image; every object is one of its own proposals, assigned to itself.

    Args:
        proposals: Of every image.
        targets: `boxes` (G, 4) and `labels` (G,) of every image, and `crowd` (C, 4) where crowds are ignored.
        generators: Random numbers of every image.
        assignment: Says which object a proposal is to find.
        sampling: How many boxes of either kind.
        background: K.
        ignore_crowds: Whether proposals in crowd regions are left out.
    """
    boxes, labels, numbers, objects, origins, used = [], [], [], [], [], []
    for of_image, anchors, target, generator in zip(
        proposals.boxes, proposals.origins, targets, generators, strict=True
    ):
        own = target["boxes"].to(of_image)
        ignored = inside_crowds(of_image, target["crowd"]) if ignore_crowds else None
        itself = torch.arange(len(own), device=own.device)
        assigned = torch.cat([itself, assignment(of_image, own, ignored)])
        origin = torch.cat([torch.full_like(itself, -1), anchors])
        drawn = draw(len(own) + proposals.anchors, generator, own.device)
        chosen = sampling(assigned, torch.cat([drawn[: len(own)], drawn[len(own) + anchors]]))
        number = assigned[chosen.indices].clamp(min=-1)  # -1 is the row that is put behind the objects
        box = torch.cat([own, of_image])[chosen.indices]
        boxes.append(box)
        labels.append(torch.cat([target["labels"], itself.new_full((1,), background)])[number])
        numbers.append(number)
        found = torch.cat([own, own.new_zeros(1, 4)])[number]
        objects.append(torch.where(chosen.positive[:, None], found, box))
        origins.append(origin[chosen.indices])
        used.append(chosen.used)
    kept = torch.cat(used).nonzero()[:, 0]
    columns = (numbered(boxes), *(torch.cat(parts) for parts in (labels, numbers, objects, origins)))
    rois, label, number, matched, origin = (column[kept] for column in columns)
    with_object = (label < background).nonzero()[:, 0]
    counts = torch.bincount(rois[with_object, 0].long(), minlength=len(targets)).tolist()
    return Samples(rois, label, number, matched, origin, with_object, counts, proposals.anchors)
