"""Entries of our detectors as other libraries' files have them, by the layouts that are known of these."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = dict[str, Tensor]
Rules = Sequence[tuple[str, str]]

_BEFORE_0_13: Rules = [
    (r"(backbone\.fpn\.(inner|layer)_blocks\.\d+)\.0\.", r"\1."),
    (r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
    *((rf"roi_heads\.mask_head\.{i}\.0\.", f"roi_heads.mask_head.mask_fcn{i + 1}.") for i in range(4)),
    *((rf"(head\.\w+_head\.conv)\.{i}\.0\.", rf"\1.{2 * i}.") for i in range(4)),
]
_MMDETECTION: Rules = [
    (r"neck\.fpn\.inner_blocks\.(\d)\.0\.", r"neck.lateral_convs.\1.conv."),
    (r"neck\.fpn\.layer_blocks\.(\d)\.0\.", r"neck.fpn_convs.\1.conv."),
    (r"rpn\.head\.conv\.0\.0\.", "rpn_head.rpn_conv."),
    (r"rpn\.head\.cls_logits\.", "rpn_head.rpn_cls."),
    (r"rpn\.head\.bbox_pred\.", "rpn_head.rpn_reg."),
    (r"box_heads\.(\d)\.cls_score\.", r"roi_head.bbox_head.\1.fc_cls."),
    (r"box_heads\.(\d)\.bbox_pred\.", r"roi_head.bbox_head.\1.fc_reg."),
    (r"box_heads\.(\d)\.layers\.(\d)\.0\.", r"roi_head.bbox_head.\1.shared_convs.\2.conv."),
    (r"box_heads\.(\d)\.layers\.(\d)\.1\.", r"roi_head.bbox_head.\1.shared_convs.\2.bn."),
    (r"box_heads\.(\d)\.layers\.(5|fc6)\.", r"roi_head.bbox_head.\1.shared_fcs.0."),
    (r"box_heads\.(\d)\.layers\.fc7\.", r"roi_head.bbox_head.\1.shared_fcs.1."),
    (r"mask_heads\.(\d)\.layers\.(\d)\.0\.", r"roi_head.mask_head.\1.convs.\2.conv."),
    (r"mask_heads\.(\d)\.predictor\.conv5_mask\.", r"roi_head.mask_head.\1.upsample."),
    (r"mask_heads\.(\d)\.predictor\.mask_fcn_logits\.", r"roi_head.mask_head.\1.conv_logits."),
]
_SWIN: dict[str, Rules] = {
    "fork": [
        (r"backbone\.features\.0\.0\.", "backbone.patch_embed.proj."),
        (r"backbone\.features\.0\.2\.", "backbone.patch_embed.norm."),
        (r"(.*\.mlp)\.0\.", r"\1.fc1."),
        (r"(.*\.mlp)\.3\.", r"\1.fc2."),
    ],
    "mm": [
        (r"backbone\.features\.0\.0\.", "backbone.patch_embed.projection."),
        (r"backbone\.features\.0\.2\.", "backbone.patch_embed.norm."),
        (r"(.*)\.mlp\.0\.", r"\1.ffn.layers.0.0."),
        (r"(.*)\.mlp\.3\.", r"\1.ffn.layers.1."),
        (r"(.*\.attn)\.(qkv|proj|relative_position_bias_table)", r"\1.w_msa.\2"),
    ],
}


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            break
    return name


def before_0_13(state: Mapping[str, Tensor]) -> State:
    """torchvision's entries as its first published files name them; norms frozen, so without counts of batches."""
    kept = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    return {_renamed(name, _BEFORE_0_13): value for name, value in kept.items()}


def as_mmdetection(state: Mapping[str, Tensor], backbone: str) -> State:
    """Entries of a detector of ours in MMDetection's layout.

    Args:
        state: `state_dict()` of Faster, Mask or Cascade R-CNN.
        backbone: `resnet`, `fork` (the Swin authors' code for MMDetection 2), `mm` (MMDetection 3), `elsa`.
    """
    cascade = "box_heads.1.cls_score.weight" in state
    found: State = {}
    for name, value in state.items():
        if name.startswith("backbone."):
            found |= {name: value} if backbone == "resnet" else _of_swin(name, value, backbone)
        else:
            name = _renamed(name, _MMDETECTION)
            found[name if cascade else name.replace("_head.0.", "_head.")] = value
    return found


def _of_swin(name: str, value: Tensor, layout: str) -> State:
    """One entry of a Swin or ELSA-Swin, and what the layout has beside it."""
    stages = "stages" if layout == "mm" else "layers"
    stem = _renamed(name, _SWIN["mm" if layout == "mm" else "fork"])
    if block := re.fullmatch(r"backbone\.features\.([1357])\.(\d+)\.(.*)", stem):
        stem = f"backbone.{stages}.{(int(block[1]) - 1) // 2}.blocks.{block[2]}.{block[3]}"
    elif merging := re.fullmatch(r"backbone\.features\.([246])\.(.*)", stem):
        stem = f"backbone.{stages}.{int(merging[1]) // 2 - 1}.downsample.{merging[2]}"
        if layout == "mm":
            value = _unfolded(value)
    if layout == "elsa":
        return _of_elsa(stem, value)
    beside = {}
    if stem.endswith("relative_position_bias_table"):
        beside[stem.replace("bias_table", "index")] = torch.zeros(49, 49, dtype=torch.int64)
    return {stem: value, **beside}


def _of_elsa(name: str, value: Tensor) -> State:
    """Windows of ELSA's authors: value, query, key; a bias of every head that is turned by half a circle."""
    if name.endswith(".attn.relative_position_bias_table"):
        prefix = name.removesuffix("relative_position_bias_table")
        return {f"{prefix}rb": value.T.flip(1), f"{prefix}relative_id": torch.zeros(2401, dtype=torch.int64)}
    if ".attn.qkv." in name:
        query, key, of_value = value.chunk(3)
        return {name.replace(".qkv.", ".pre_proj."): torch.cat([of_value, query, key])}
    return {name.replace(".attn.proj.", ".attn.post_proj."): value}


def _unfolded(value: Tensor) -> Tensor:
    """Cells (0, 0), (1, 0), (0, 1), (1, 1) of all channels as channels of the cells in the order of the rows."""
    cells = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return cells.transpose(-2, -1).flatten(-2)
