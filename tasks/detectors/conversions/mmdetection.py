"""Weights of MMDetection's Faster, Mask and Cascade R-CNN, versions 2 and 3, under our names."""

import re
from collections.abc import Mapping

from torch import Tensor

from tasks.detectors.conversions.renaming import Rule, renamed

_HEAD = re.compile(r"roi_head\.(bbox_head|mask_head)\.(?!\d)")
_CONV = re.compile(r"roi_head\.bbox_head\.\d+\.shared_convs\.(\d+)\.conv\.weight")
_RULES: list[Rule] = [
    (r"neck\.lateral_convs\.(\d+)\.conv\.", r"neck.fpn.inner_blocks.\1.0."),
    (r"neck\.lateral_convs\.(\d+)\.bn\.", r"neck.fpn.inner_blocks.\1.1."),
    (r"neck\.fpn_convs\.(\d+)\.conv\.", r"neck.fpn.layer_blocks.\1.0."),
    (r"neck\.fpn_convs\.(\d+)\.bn\.", r"neck.fpn.layer_blocks.\1.1."),
    (r"rpn_head\.rpn_conv\.(\d+)\.conv\.", r"rpn.head.conv.\1.0."),
    (r"rpn_head\.rpn_conv\.", "rpn.head.conv.0.0."),
    (r"rpn_head\.rpn_cls\.", "rpn.head.cls_logits."),
    (r"rpn_head\.rpn_reg\.", "rpn.head.bbox_pred."),
    (r"roi_head\.bbox_head\.(\d+)\.fc_cls\.", r"box_heads.\1.cls_score."),
    (r"roi_head\.bbox_head\.(\d+)\.fc_reg\.", r"box_heads.\1.bbox_pred."),
    (r"roi_head\.bbox_head\.(\d+)\.shared_convs\.(\d+)\.conv\.", r"box_heads.\1.layers.\2.0."),
    (r"roi_head\.bbox_head\.(\d+)\.shared_convs\.(\d+)\.bn\.", r"box_heads.\1.layers.\2.1."),
    (r"roi_head\.mask_head\.(\d+)\.convs\.(\d+)\.conv\.", r"mask_heads.\1.layers.\2.0."),
    (r"roi_head\.mask_head\.(\d+)\.convs\.(\d+)\.bn\.", r"mask_heads.\1.layers.\2.1."),
    (r"roi_head\.mask_head\.(\d+)\.upsample\.", r"mask_heads.\1.predictor.conv5_mask."),
    (r"roi_head\.mask_head\.(\d+)\.conv_logits\.", r"mask_heads.\1.predictor.mask_fcn_logits."),
]


def is_mmdetection(state: Mapping[str, Tensor]) -> bool:
    """Whether these are entries of a two-stage detector or a cascade of MMDetection's."""
    return "rpn_head.rpn_cls.weight" in state


def from_mmdetection(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries under our names; those of the backbone keep theirs (`Backbone.convert`), and so do unknown ones.

    They fit a detector in MMDetection's convention, with the same heads.
    """
    entries = {_HEAD.sub(r"roi_head.\1.0.", name): value for name, value in state.items()}
    convs = 1 + max((int(found[1]) for name in entries if (found := _CONV.fullmatch(name))), default=-1)
    layers = [name for name in entries if re.fullmatch(r"roi_head\.bbox_head\.0\.shared_fcs\.\d+\.weight", name)]
    return {renamed(name, [*_RULES, *_fc_rules(convs, len(layers))]): value for name, value in entries.items()}


def _fc_rules(convs: int, layers: int) -> list[Rule]:
    """Where the fully connected layers are: behind the convolutions, a flattening, and a ReLU each."""
    names = ["fc6", "fc7"] if (convs, layers) == (0, 2) else [str(convs + 1 + 2 * index) for index in range(layers)]
    return [
        (rf"roi_head\.bbox_head\.(\d+)\.shared_fcs\.{index}\.", rf"box_heads.\1.layers.{name}.")
        for index, name in enumerate(names)
    ]
