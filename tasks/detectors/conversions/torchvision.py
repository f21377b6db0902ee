"""Weights of torchvision's Faster and Mask R-CNN and RetinaNet, both versions, and FCOS, under our names."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tasks.detectors.conversions.renaming import Rule, renamed

_EPSILON = 1e-5
"""What batch normalisations add to variances here."""
_BEFORE_0_13 = "backbone.fpn.inner_blocks.0.weight"
_OF_FCOS = "head.regression_head.bbox_ctrness.weight"
_RULES: list[Rule] = [
    (r"backbone\.body\.", "backbone."),
    # As saved before torchvision 0.13, whose published files have these names still.
    (r"backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.(weight|bias)$", r"neck.fpn.\1_blocks.\2.0.\3"),
    (r"rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"roi_heads\.mask_head\.mask_fcn1\.", "mask_heads.0.layers.0.0."),
    (r"roi_heads\.mask_head\.mask_fcn2\.", "mask_heads.0.layers.1.0."),
    (r"roi_heads\.mask_head\.mask_fcn3\.", "mask_heads.0.layers.2.0."),
    (r"roi_heads\.mask_head\.mask_fcn4\.", "mask_heads.0.layers.3.0."),
    (r"backbone\.fpn\.", "neck.fpn."),
    (r"roi_heads\.box_head\.", "box_heads.0.layers."),
    (r"roi_heads\.box_predictor\.", "box_heads.0."),
    (r"roi_heads\.mask_head\.", "mask_heads.0.layers."),
    (r"roi_heads\.mask_predictor\.", "mask_heads.0.predictor."),
]
_FLAT_HEADS: list[Rule] = [  # RetinaNet's, from before 0.13: convolutions and ReLUs in turn
    (rf"head\.(classification|regression)_head\.conv\.{2 * index}\.", rf"head.\1_head.conv.{index}.0.")
    for index in range(4)
]


def is_torchvision(state: Mapping[str, Tensor]) -> bool:
    """Whether these are entries of one of torchvision's detectors with a pyramid."""
    return any(name.startswith("backbone.body.") for name in state)


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries under our names; they fit a detector in torchvision's convention.

    Frozen norms have no `num_batches_tracked`. In the first published models (with names from before torchvision 0.13,
    but for FCOS) they divide by the root of the variance alone: our epsilon is made up for in the norms' weights, since
    variances can be far smaller.
    """
    frozen = not any(name.endswith("num_batches_tracked") for name in state)
    exact = frozen and _BEFORE_0_13 in state and _OF_FCOS not in state
    flat = _OF_FCOS not in state and "head.classification_head.conv.0.weight" in state
    rules = [*_FLAT_HEADS, *_RULES] if flat else _RULES
    converted = {}
    for name, value in state.items():
        variance = state.get(f"{name.removesuffix('weight')}running_var")
        if exact and name.startswith("backbone.body.") and name.endswith(".weight") and variance is not None:
            variance = variance.double().clamp(min=torch.finfo(variance.dtype).tiny)
            value = (value.double() * (1 + _EPSILON / variance).sqrt()).to(value.dtype)
        converted[renamed(name, rules)] = value
    return converted
