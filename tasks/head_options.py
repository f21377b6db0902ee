"""Options of a detector that the names and shapes of its weights tell, as the command line has them."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor


def head_options(state: Mapping[str, Tensor]) -> dict[str, object]:
    """What tells a detector from others of its class: `{"box_head.convs": 4, ...}`.

    Args:
        state: Entries under the names of this package's detectors; those of the backbone are not needed.
    """
    found: dict[str, object] = (
        {"channels": state["neck.fpn.layer_blocks.0.0.weight"].shape[0]} if _has_fpn(state) else {}
    )
    return found | (_two_stage(state) if "box_heads.0.cls_score.weight" in state else _dense(state))


def _two_stage(state: Mapping[str, Tensor]) -> dict[str, object]:
    classes = len(state["box_heads.0.cls_score.weight"]) - 1
    found: dict[str, object] = {
        "pyramid_norm": "neck.fpn.layer_blocks.0.1.weight" in state,
        "rpn.convs": _count(r"rpn\.head\.conv\.\d+\.0\.weight", state),
        "box_head.convs": _count(r"box_heads\.0\.layers\.\d+\.0\.weight", state),
        "box_head.fcs": _count(r"box_heads\.0\.layers\.(fc)?\d+\.weight", state),
        "box_head.regressors": _owners(len(state["box_heads.0.bbox_pred.weight"]) // 4, classes),
    }
    if "mask_heads.0.predictor.mask_fcn_logits.weight" in state:
        found["mask_head.convs"] = _count(r"mask_heads\.0\.layers\.\d+\.0\.weight", state)
        found["mask_head.norm"] = "mask_heads.0.layers.0.1.weight" in state
        found["mask_head.masks"] = _owners(len(state["mask_heads.0.predictor.mask_fcn_logits.weight"]), classes)
    return found


def _dense(state: Mapping[str, Tensor]) -> dict[str, object]:
    found: dict[str, object] = {}
    if "head.regression_head.bbox_ctrness.weight" in state:
        found["num_convs"] = _count(r"head\.classification_head\.conv\.\d+\.weight", state) // 2  # each has a norm
    elif "head.classification_head.cls_logits.weight" in state:
        found["head_norm"] = "head.classification_head.conv.0.1.weight" in state
    first = state.get("neck.fpn.extra_blocks.p6.weight")
    if first is not None:
        found["extra_levels"] = "p6p7_from_p5" if first.shape[0] == first.shape[1] else "p6p7_from_c5"
    return found


def _has_fpn(state: Mapping[str, Tensor]) -> bool:
    return "neck.fpn.layer_blocks.0.0.weight" in state


def _count(pattern: str, names: Iterable[str]) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in names)


def _owners(count: int, classes: int) -> str:
    """Who has a regressor or mask of its own, if there are so many; the background's makes no difference."""
    return "classes" if count >= classes else "shared"
