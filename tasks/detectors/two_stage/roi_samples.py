"""The boxes that a stage is trained on, chosen among proposals and the objects themselves."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.detectors.crowds import inside_crowds
from tasks.detectors.two_stage.assignment import Assignment
from tasks.detectors.two_stage.roi_pooling import numbered
from tasks.detectors.two_stage.sampling import Generators, Sampling

Target = dict[str, Tensor]


@dataclass(frozen=True)
class Samples:
    """Boxes of a batch, image by image.

    Attributes:
        rois: (S, 5) number of the image, and box xyxy in pixels.
        labels: (S,) class 0..K-1 of the object that each box is to find, K for the background.
        numbers: (S,) the object's number in its image; without meaning for the background.
        objects: (S, 4) the object's box; the box itself for the background.
        added: (S,) whether the box is an object that was added to the proposals.
        counts: Boxes of every image.
    """

    rois: Tensor
    labels: Tensor
    numbers: Tensor
    objects: Tensor
    added: Tensor
    counts: list[int]


def sample_boxes(
    proposals: list[Tensor],
    targets: list[Target],
    generators: Generators,
    assignment: Assignment,
    sampling: Sampling,
    background: int,
    ignore_crowds: bool,
) -> Samples:
    """Chooses boxes of every image; every object is one of its own proposals, assigned to itself.

    Args:
        proposals: (P, 4) of every image.
        targets: `boxes` (G, 4) and `labels` (G,) of every image, and `crowd` (C, 4) where crowds are ignored.
        generators: Random numbers of every image.
        assignment: Says which object a proposal is to find.
        sampling: How many boxes of either kind.
        background: K.
        ignore_crowds: Whether proposals in crowd regions are left out.
    """
    boxes, labels, numbers, objects, added, used = [], [], [], [], [], []
    for of_image, target, generator in zip(proposals, targets, generators, strict=True):
        own = target["boxes"].to(of_image)
        ignored = inside_crowds(of_image, target["crowd"]) if ignore_crowds else None
        itself = torch.arange(len(own), device=own.device)
        assigned = torch.cat([itself, assignment(of_image, own, ignored)])
        chosen = sampling(assigned, generator)
        number = assigned[chosen.indices].clamp(min=-1)  # -1 is the row that is put behind the objects
        box = torch.cat([own, of_image])[chosen.indices]
        boxes.append(box)
        labels.append(torch.cat([target["labels"], itself.new_full((1,), background)])[number])
        numbers.append(number)
        found = torch.cat([own, own.new_zeros(1, 4)])[number]
        objects.append(torch.where(chosen.positive[:, None], found, box))
        added.append(chosen.indices < len(own))
        used.append(chosen.used)
    kept = torch.cat(used)
    return Samples(
        numbered(boxes)[kept],
        torch.cat(labels)[kept],
        torch.cat(numbers)[kept],
        torch.cat(objects)[kept],
        torch.cat(added)[kept],
        torch.stack([of_image.sum() for of_image in used]).tolist(),
    )
