"""Weights of torchvision's Faster and Mask R-CNN, both versions, and RetinaNet, under our names."""

from collections.abc import Mapping

from torch import Tensor

from tasks.detectors.conversions.renaming import Rule, renamed

_EPSILON = 1e-5
"""What batch normalisations add to variances here."""
_RULES: list[Rule] = [
    (r"backbone\.body\.", "backbone."),
    # As saved before torchvision 0.13, whose published files have these names still.
    (r"backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.(weight|bias)$", r"neck.fpn.\1_blocks.\2.0.\3"),
    *(
        (rf"head\.(\w+)_head\.conv\.{2 * index}\.(weight|bias)$", rf"head.\1_head.conv.{index}.0.\2")
        for index in range(4)
    ),
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


def is_torchvision(state: Mapping[str, Tensor]) -> bool:
    """Whether these are entries of one of torchvision's detectors with a pyramid."""
    return any(name.startswith("backbone.body.") for name in state)


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries under our names; they fit a detector in torchvision's convention.

    Frozen norms have no `num_batches_tracked`. torchvision's published models with them divide by the root of the
    variance alone, so the epsilon of ours is taken off the variance.
    """
    frozen = not any(name.endswith("num_batches_tracked") for name in state)
    converted = {}
    for name, value in state.items():
        if frozen and name.startswith("backbone.body.") and name.endswith(".running_var"):
            value = value - _EPSILON
        converted[renamed(name, _RULES)] = value
    return converted
