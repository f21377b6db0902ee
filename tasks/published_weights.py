"""Published weights of whole detectors: torchvision's and MMDetection's files, recognised by their keys."""

import argparse
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from backbones.weights import unwrapped
from tasks.class_tensors import ClassRows, DenseModel
from tasks.detectors import FCOS, CascadeMaskRCNN, CascadeRCNN, Detector, FasterRCNN, MaskRCNN, RetinaNet
from tasks.detectors.conversions import from_mmdetection, from_torchvision, is_mmdetection, is_torchvision
from tasks.detectors.two_stage.convention import ConventionName
from tasks.detectors.two_stage.detector import TwoStageDetector
from tasks.errors import TaskError
from tasks.head_options import head_options

_NO_CLASS = ("__background__", "N/A")
_COCO_NAMES = ["" if name in _NO_CLASS else name for name in FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]]
"""Names of COCO's classes by their category ids 0..90; those that no class has are empty."""
_COCO_IDS = {name: number for number, name in enumerate(_COCO_NAMES) if name}
_TITLES: dict[type[Detector], str] = {
    FasterRCNN: "Faster R-CNN",
    MaskRCNN: "Mask R-CNN",
    CascadeRCNN: "Cascade R-CNN",
    CascadeMaskRCNN: "Cascade Mask R-CNN",
    RetinaNet: "RetinaNet",
    FCOS: "FCOS",
}
_CLASS_ROWS = re.compile(
    r"(box_heads\.\d+\.(cls_score|(?P<boxes>bbox_pred))|mask_heads\.\d+\.predictor\.mask_fcn_logits)\.(weight|bias)"
)
_DENSE_CLASSES = "head.classification_head.cls_logits."


@dataclass(frozen=True)
class PublishedWeights:
    """Weights of a detector of another library.

    Attributes:
        library: `torchvision` or `MMDetection`.
        detector: The class of ours that computes the same.
        convention: The convention that it was trained in; None for detectors that have one only.
        entries: Under the names of ours; those of the backbone begin with `backbone.` and keep their layout.
        outputs: Outputs of the classifier for a location or box, background included.
        class_names: Names of the classes by their places in `class_rows`, empty for outputs without a class; no names
            where the file tells none.
        class_rows: Where entries hold the classes.
    """

    library: str
    detector: type[Detector]
    convention: ConventionName | None
    entries: dict[str, Tensor]
    outputs: int
    class_names: list[str]
    class_rows: dict[str, ClassRows]

    @property
    def title(self) -> str:
        """What the file holds, in a few words."""
        names = "" if self.class_names else " without names of classes"
        return f"{self.library}'s {_TITLES[self.detector]}, {self.outputs} outputs{names}"

    @property
    def category_ids(self) -> list[int] | None:
        """COCO's ids of the classes that have names, or None if these are not COCO's."""
        names = list(filter(None, self.class_names))
        return [_COCO_IDS[name] for name in names] if set(names) <= _COCO_IDS.keys() else None


def read_published(path: str | Path) -> PublishedWeights | None:
    """The weights in a file of torchvision's or MMDetection's; None for any other file, also for a damaged one.

    Wrappers of training scripts are taken off, and nothing in the file is run.

    Args:
        path: A file that `torch.save` has written in any of its formats.

    Raises:
        TaskError: It holds a detector of these libraries that cannot be one of ours.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *_STAND_INS]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        entries = unwrapped(content, str(path))
    except Exception:  # of bytes that are no checkpoint, which `verify_checkpoint` has words for
        return None
    if isinstance(content, dict) and "hyper_parameters" in content:  # a run's checkpoint
        return None
    meta = content.get("meta") if isinstance(content, dict) else None
    _refuse_known(entries, path)
    if is_torchvision(entries):
        return _of_torchvision(entries)
    if is_mmdetection(entries):
        return _of_mmdetection(entries, meta if isinstance(meta, Mapping) else {}, path)
    return None


def require_fitting(model: DenseModel, published: PublishedWeights, path: str | Path) -> None:
    """Refuses weights that would not fit a detector, or fit and compute something else, by the options to set.

    Raises:
        TaskError: Class, convention or another option of the detector is not the one of the weights.
    """
    if not isinstance(model, Detector):
        raise TaskError(
            f"--model.weights: {path} is {published.title}, and this model is no detector ({type(model).__name__}); "
            f"for its backbone alone use --model.backbone.weights {path}"
        )
    wanted: dict[str, object] = {}
    if isinstance(model, published.detector):
        own, theirs = head_options(model.state_dict()), head_options(published.entries)
        wanted = {f".{option}": value for option, value in theirs.items() if own.get(option) != value}
        convention = model.convention.name if isinstance(model, TwoStageDetector) else None
    else:
        wanted[""] = f"tasks.detectors.{published.detector.__name__}"
        convention = "mmdetection" if published.convention else None
    if convention != published.convention:
        wanted[".convention"] = published.convention
    if wanted:
        options = " ".join(f"--model.detector{option} {_written(value)}" for option, value in wanted.items())
        raise TaskError(
            f"--model.weights: {path} is {published.title}, and this {type(model).__name__} would compute something "
            f"else with it; give {options}"
        )


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _of_torchvision(state: dict[str, Tensor]) -> PublishedWeights | None:
    entries = from_torchvision(state)
    if "box_heads.0.cls_score.weight" in entries:
        detector: type[Detector] = MaskRCNN if any(name.startswith("mask_heads.") for name in entries) else FasterRCNN
        outputs = len(entries["box_heads.0.cls_score.weight"])
        names = _COCO_NAMES[1:] if outputs == len(_COCO_NAMES) else []
        rows = _rows_of_two_stages(entries, background_first=True)
        return PublishedWeights("torchvision", detector, "torchvision", entries, outputs, names, rows)
    if f"{_DENSE_CLASSES}weight" not in entries:
        return None
    anchors = len(entries["head.regression_head.bbox_reg.weight"]) // 4
    outputs = len(entries[f"{_DENSE_CLASSES}weight"]) // anchors
    dense: type[Detector] = FCOS if "head.regression_head.bbox_ctrness.weight" in entries else RetinaNet
    names = _COCO_NAMES if outputs == len(_COCO_NAMES) else []
    rows = {f"{_DENSE_CLASSES}{kind}": ClassRows(blocks=anchors) for kind in ("weight", "bias")}
    return PublishedWeights("torchvision", dense, None, entries, outputs, names, rows)


def _of_mmdetection(state: dict[str, Tensor], meta: Mapping[str, Any], path: str | Path) -> PublishedWeights:
    config = f"{meta.get('config', '')} {meta.get('cfg', '')}"
    if re.search(r"style\s*=\s*['\"]caffe", config):
        raise TaskError(
            f"--model.weights: {path} has a ResNet in Caffe's style, whose strides are in other convolutions and whose "
            "pixels are scaled otherwise: here it would compute something else; take one of style='pytorch'"
        )
    entries = from_mmdetection(state)
    cascade = "box_heads.1.cls_score.weight" in entries
    masks = any(name.startswith("mask_heads.") for name in entries)
    detectors: dict[tuple[bool, bool], type[Detector]] = {
        (False, False): FasterRCNN,
        (False, True): MaskRCNN,
        (True, False): CascadeRCNN,
        (True, True): CascadeMaskRCNN,
    }
    outputs = len(entries["box_heads.0.cls_score.weight"])
    rows = _rows_of_two_stages(entries, background_first=False)
    return PublishedWeights(
        "MMDetection",
        detectors[cascade, masks],
        "mmdetection",
        entries,
        outputs,
        _names_of_mmdetection(meta, outputs - 1),
        rows,
    )


def _names_of_mmdetection(meta: Mapping[str, Any], num_classes: int) -> list[str]:
    """Names that a training script has written beside the weights, or COCO's if there are as many classes."""
    facts = meta.get("dataset_meta")
    facts = meta if not isinstance(facts, Mapping) else {name.upper(): value for name, value in facts.items()}
    names = facts.get("CLASSES")
    if isinstance(names, list | tuple) and len(names) == num_classes:
        return list(map(str, names))
    return list(_COCO_IDS) if num_classes == len(_COCO_IDS) else []


def _rows_of_two_stages(entries: Mapping[str, Tensor], background_first: bool) -> dict[str, ClassRows]:
    """Where box and mask heads hold their classes; entries that all classes share are left out."""
    outputs = len(entries["box_heads.0.cls_score.weight"])  # K + 1
    rows = {}
    for name, value in entries.items():
        if found := _CLASS_ROWS.fullmatch(name):
            width = 4 if found["boxes"] else 1
            background = len(value) // width - (outputs - 1)
            if background >= 0:
                rows[name] = ClassRows(background=background, background_first=background_first, width=width)
    return rows


def _refuse_known(entries: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuses detectors whose layout is known, and which nothing here computes."""
    if "bbox_head.fc_cls.weight" in entries or "bbox_head.0.fc_cls.weight" in entries:
        raise TaskError(
            f"--model.weights: {path} is of MMDetection 1, whose background is class 0 and whose boxes are coded "
            "otherwise; take the file that MMDetection 2 or 3 publishes of this model"
        )
    if any(name.startswith("backbone.features.0.") for name in entries) and any(
        name.startswith("head.classification_head.module_list.") for name in entries
    ):
        raise TaskError(
            f"--model.weights: {path} is torchvision's SSD or SSDLite, whose backbones (VGG-16 with dilated layers, "
            "MobileNetV3 with a narrower end) are not here; train SSDLite320 on one of this package's"
        )


class _Unread:
    """Stands for what MMDetection 3 keeps beside the weights: the history of losses, with arrays and functions."""

    def __init__(self, *_: object) -> None:
        """Keeps nothing."""

    def __setstate__(self, state: object) -> None:
        """Keeps nothing."""


_STAND_INS = [
    (_Unread, name)
    for name in (
        "mmengine.logging.history_buffer.HistoryBuffer",
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy.ndarray",
        "numpy.dtype",
        "_codecs.encode",
        "__builtin__.getattr",
        "builtins.getattr",
    )
]
