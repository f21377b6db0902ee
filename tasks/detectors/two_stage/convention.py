"""What torchvision and MMDetection do differently in detectors of two stages, side by side."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from attention.base import check_choice

ConventionName = Literal["mmdetection", "torchvision"]
Regressors = Literal["shared", "classes", "all"]
LowQuality = Literal["none", "own_best", "last_object"]

_ANY_SIDE = torch.finfo(torch.float32).tiny
"""Smallest side in pixels that is more than nothing, in float32 too."""


@dataclass(frozen=True)
class Convention:
    """One library's habits; weights that were trained under one of them are evaluated under the same.

    Attributes:
        name: `mmdetection` or `torchvision`.
        rounded_anchors: Whether corners of anchors are whole pixels.
        measured_strides: Whether the distance of anchors is the side of the batch over that of the map, rounded down;
            otherwise it is the level's nominal stride.
        anchors_per_image: Whether, in training, anchors beyond an image's own padding (to a multiple of 32 pixels) are
            ignored; otherwise only the padding of the whole batch ends them.
        aligned: Whether RoIAlign moves its samples by half a pixel.
        sampling_ratio: RoIAlign's samples per cell and side; 0: as many as there are pixels.
        octaves_nudged: Whether the 1e-6 that keeps a box at a limit on the upper level is added to the logarithm of its
            side; otherwise to the side.
        low_quality: Who gets an anchor that fits an object best, but below the threshold: `own_best`, the object that
            the anchor fits best; `last_object`, the last object that has no better one.
        low_quality_minimum: IoU that such an anchor has at least.
        second_stage_low_quality: The same, in the second stage of Mask R-CNN.
        clip_shrinking: Whether log ratios of sides are clipped on both sides, not only where boxes grow.
        smallest_proposal: Side in pixels of the smallest proposal that is kept.
        smallest_detection: Side in pixels of the smallest detection that is kept.
        background_first: Whether the background is class 0 of the head; otherwise it is the last one.
        beta: Where the loss of boxes turns from quadratic to linear; 0 is the L1 loss.
        cascade_rpn_beta: The same for the proposals of a cascade.
        cascade_beta: The same in the stages of a cascade.
        inside_anchors: Whether a cascade ignores anchors that reach beyond the image in training.
        regressors: Box regressors and masks of a head: of all classes, and of the background too (`all`), or not
            (`classes`).
        at_least_one: Whether the average over sampled anchors counts at least one positive and negative an image.
        proposals: Proposals of an image in training.
        cascade_proposals: The same in a cascade.
        binary_masks: Whether the masks that are learned are 0 and 1; otherwise shares of a cell.
    """

    name: ConventionName
    rounded_anchors: bool
    measured_strides: bool
    anchors_per_image: bool
    aligned: bool
    sampling_ratio: int
    octaves_nudged: bool
    low_quality: LowQuality
    low_quality_minimum: float
    second_stage_low_quality: LowQuality
    clip_shrinking: bool
    smallest_proposal: float
    smallest_detection: float
    background_first: bool
    beta: float
    cascade_rpn_beta: float
    cascade_beta: float
    inside_anchors: bool
    regressors: Regressors
    at_least_one: bool
    proposals: int
    cascade_proposals: int
    binary_masks: bool


MMDETECTION = Convention(
    name="mmdetection",
    rounded_anchors=False,
    measured_strides=False,
    anchors_per_image=True,
    aligned=True,
    sampling_ratio=0,
    octaves_nudged=False,
    low_quality="last_object",
    low_quality_minimum=0.3,
    second_stage_low_quality="last_object",
    clip_shrinking=True,
    smallest_proposal=_ANY_SIDE,
    smallest_detection=0.0,
    background_first=False,
    beta=0.0,
    cascade_rpn_beta=1 / 9,
    cascade_beta=1.0,
    inside_anchors=True,
    regressors="classes",
    at_least_one=True,
    proposals=1000,
    cascade_proposals=2000,
    binary_masks=True,
)
TORCHVISION = Convention(
    name="torchvision",
    rounded_anchors=True,
    measured_strides=True,
    anchors_per_image=False,
    aligned=False,
    sampling_ratio=2,
    octaves_nudged=True,
    low_quality="own_best",
    low_quality_minimum=0.0,
    second_stage_low_quality="none",
    clip_shrinking=False,
    smallest_proposal=1e-3,
    smallest_detection=1e-2,
    background_first=True,
    beta=1 / 9,
    cascade_rpn_beta=1 / 9,
    cascade_beta=1 / 9,
    inside_anchors=False,
    regressors="all",
    at_least_one=False,
    proposals=2000,
    cascade_proposals=2000,
    binary_masks=False,
)


def find_convention(name: ConventionName) -> Convention:
    """The convention of a name.

    Raises:
        ValueError: There is none.
    """
    check_choice("convention", name, get_args(ConventionName))
    return {"mmdetection": MMDETECTION, "torchvision": TORCHVISION}[name]
