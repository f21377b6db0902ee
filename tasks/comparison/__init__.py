"""Which of two models is better, at what certainty and what cost: exact resampling of images, and chance of seeds."""

from tasks.comparison.difference import Difference, compare
from tasks.comparison.estimate import Arm, Estimate, estimate_difference, estimate_mean
from tasks.comparison.holm import holm
from tasks.comparison.pareto import on_front, share_on_front
from tasks.comparison.plan import runs_needed
from tasks.comparison.resampling import Scorer, image_weights, resampled_scores
from tasks.comparison.runs import RunScores, build_arm, read_run, require_enough_images, require_same_data
from tasks.comparison.weighted_ap import WeightedAP
from tasks.comparison.weighted_iou import WeightedIoU

__all__ = [
    "Arm",
    "Difference",
    "Estimate",
    "RunScores",
    "Scorer",
    "WeightedAP",
    "WeightedIoU",
    "build_arm",
    "compare",
    "estimate_difference",
    "estimate_mean",
    "holm",
    "image_weights",
    "on_front",
    "read_run",
    "require_enough_images",
    "require_same_data",
    "resampled_scores",
    "runs_needed",
    "share_on_front",
]
