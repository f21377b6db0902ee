"""What decode heads take: one table of all that do not simply read the last map and return logits of all classes.

What a head's signature says stands there and not here: `head_config.py` reads it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Maps = Literal["last", "all", "last two", "last three", "two finest and last", "finest", "of the last stride"]

MAPS: dict[Maps, Callable[[list[int]], list[int]]] = {
    "last": lambda strides: [len(strides) - 1],
    "all": lambda strides: [*range(len(strides))],
    "last two": lambda strides: [*range(len(strides))][-2:],
    "last three": lambda strides: [*range(len(strides))][-3:],
    "two finest and last": lambda strides: [0, 1, len(strides) - 1][-len(strides) :],
    "finest": lambda strides: [0],
    "of the last stride": lambda strides: [level for level, stride in enumerate(strides) if stride == strides[-1]],
}
"""Numbers of the maps that a head reads unless its config has an `in_index`, by the strides of all maps."""

_OHEM = {"type": "OhemCrossEntropy", "thres": 0.9, "min_kept": 131072}


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a head takes besides what its signature says.

    Attributes:
        maps: Which maps it reads by default; every choice but `last` is given to it as a list.
        count: How many maps it reads, where it cannot read any other number.
        equal_strides: Whether all its maps must have one stride.
        options: What its own defaults lack, or have wrong for maps of any network.
        losses: How many losses it computes, each with an entry of `loss_decode`, where that is not its user's choice.
        classes: Classes that it tells apart where these are not the data set's; it is then auxiliary only.
        one_logit: Whether it can have a single logit for two classes (`out_channels: 1`).
        sets: Options of the classes that it derives from which it sets itself.
        source: Option that holds the config of the head inside it, which reads the maps.
        feature_rows: Whether weights hold features in front of classes along one axis.
        example: Options besides `channels` that make a small one.
        refused: Why there is none here, and what to take instead.
    """

    maps: Maps = "last"
    count: int | None = None
    equal_strides: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    losses: int | None = None
    classes: int | None = None
    one_logit: bool = True
    sets: tuple[str, ...] = ()
    source: str | None = None
    feature_rows: bool = False
    example: Mapping[str, Any] = field(default_factory=dict)
    refused: str | None = None


HEADS: dict[str, Head] = {
    "ANNHead": Head(maps="last two", count=2, example={"project_channels": 8}),
    "AttentionHead": Head(example={"attention": "CBAM"}),
    "CAAHead": Head(
        sets=("attention", "concat_input", "image_level", "repeats"), example={"key_channels": 4, "feature_channels": 8}
    ),
    "CCHead": Head(sets=("num_convs",)),
    "DAHead": Head(example={"pam_channels": 8}),
    "DDRHead": Head(
        maps="last two",
        count=2,
        options={"loss_decode": [_OHEM, {**_OHEM, "loss_weight": 0.4}]},
        losses=2,
    ),
    "DNLHead": Head(sets=("num_convs",)),
    "DPTHead": Head(refused="reads a plain vision transformer's maps and class tokens, which no backbone here gives"),
    "DepthwiseSeparableASPPHead": Head(example={"c1_channels": 4}),
    "EMAHead": Head(example={"ema_channels": 8, "num_bases": 4, "num_stages": 2}),
    "EncHead": Head(maps="last three", example={"num_codes": 4}),
    "FPNHead": Head(maps="all"),
    "GCHead": Head(sets=("num_convs",)),
    "ISAHead": Head(example={"isa_channels": 8, "down_factor": [2, 2]}),
    "IterativeDecodeHead": Head(
        sets=("channels", "in_channels", "num_classes"),
        source="kernel_generate_head",
        one_logit=False,
        example={
            "kernel_generate_head": {"type": "FCNHead", "channels": 16, "num_convs": 1},
            "kernel_update_head": [{"num_heads": 2, "num_mask_fcs": 1, "feedforward_channels": 16}],
        },
    ),
    "KernelUpdateHead": Head(refused="is a part of IterativeDecodeHead; give it there, as kernel_update_head"),
    "LRASPPHead": Head(
        maps="two finest and last",
        count=3,
        options={"input_transform": "multiple_select"},
        example={"branch_channels": [4, 8]},
    ),
    "LightHamHead": Head(maps="all", example={"ham_channels": 16, "ham_kwargs": {"MD_R": 4}}),
    "Mask2FormerHead": Head(refused="needs mmdet, which is not installed here; take SegmenterMaskTransformerHead"),
    "MaskFormerHead": Head(refused="needs mmdet, which is not installed here; take SegmenterMaskTransformerHead"),
    "NLHead": Head(sets=("num_convs",)),
    "OCRHead": Head(example={"ocr_channels": 8}),
    "PIDHead": Head(
        maps="last two",
        count=2,
        options={
            "loss_decode": [
                {"type": "CrossEntropyLoss", "loss_weight": 0.4},
                _OHEM,
                {"type": "BoundaryLoss", "loss_weight": 20.0},
                _OHEM,
            ]
        },
        losses=4,
    ),
    "PSAHead": Head(refused="needs mmcv's compiled psa_mask; take AttentionHead, or NLHead"),
    "PointHead": Head(
        maps="finest",
        options={"norm_cfg": None},
        one_logit=False,
        feature_rows=True,
        example={"num_points": 32, "subdivision_num_points": 64},
    ),
    "SETRMLAHead": Head(maps="of the last stride", equal_strides=True, example={"mla_channels": 8}),
    "STDCHead": Head(maps="last", classes=2, one_logit=False, example={"num_convs": 1}),
    "SegformerHead": Head(maps="all"),
    "SegmenterMaskTransformerHead": Head(one_logit=False, example={"num_layers": 1, "num_heads": 2, "embed_dims": 16}),
    "SideAdapterCLIPHead": Head(refused="needs CLIP's encoders of images and text; take SegmenterMaskTransformerHead"),
    "UPerHead": Head(maps="all"),
    "VPDDepthHead": Head(refused="finds depths and no classes; it is no segmentor"),
}
"""Heads by their names; one that is not named here reads the last map, and its signature says the rest."""


def head_entry(name: str) -> Head:
    """What the table says of a head.

    Raises:
        ValueError: The head cannot be used here.
    """
    entry = HEADS.get(name, Head())
    if entry.refused:
        raise ValueError(f"{name} {entry.refused}")
    return entry
