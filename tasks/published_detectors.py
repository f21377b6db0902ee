"""Published weights of torchvision's and MMDetection's detectors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from tasks.class_tensors import ClassRows, DenseModel
from tasks.detectors import FCOS, CascadeMaskRCNN, CascadeRCNN, Detector, FasterRCNN, MaskRCNN, RetinaNet
from tasks.detectors.conversions import from_mmdetection, from_torchvision
from tasks.detectors.two_stage.convention import ConventionName
from tasks.detectors.two_stage.detector import TwoStageDetector
from tasks.errors import TaskError
from tasks.head_options import head_options
from tasks.published_base import PublishedWeights, names_in_meta

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
class PublishedDetector(PublishedWeights):
    """Weights of a detector of another library.

    Attributes:
        convention: The convention that it was trained in; None for detectors that have one only.
    """

    convention: ConventionName | None

    @property
    def name(self) -> str:
        """What the detector is called."""
        assert issubclass(self.model, Detector)
        return _TITLES[self.model]

    @property
    def category_ids(self) -> list[int] | None:
        """COCO's ids of the classes that have names, or None if these are not COCO's."""
        names = list(filter(None, self.class_names))
        return [_COCO_IDS[name] for name in names] if set(names) <= _COCO_IDS.keys() else None

    def missing_options(self, model: DenseModel) -> dict[str, object]:
        """Class, convention and whatever the names and shapes of the weights tell of the detector."""
        wanted: dict[str, object] = {}
        if isinstance(model, self.model):
            own, theirs = head_options(model.state_dict()), head_options(self.entries)
            wanted = {f".{option}": value for option, value in theirs.items() if own.get(option) != value}
            convention = model.convention.name if isinstance(model, TwoStageDetector) else None
        else:
            wanted[""] = f"tasks.detectors.{self.model.__name__}"
            convention = "mmdetection" if self.convention else None
        if convention != self.convention:
            wanted[".convention"] = self.convention
        return {f"--model.detector{option}": value for option, value in wanted.items()}


def of_torchvision(state: dict[str, Tensor]) -> PublishedDetector | None:
    """The detector whose weights torchvision has published; None where it is none of ours."""
    entries = from_torchvision(state)
    if "box_heads.0.cls_score.weight" in entries:
        detector: type[Detector] = MaskRCNN if any(name.startswith("mask_heads.") for name in entries) else FasterRCNN
        outputs = len(entries["box_heads.0.cls_score.weight"])
        names = _COCO_NAMES[1:] if outputs == len(_COCO_NAMES) else []
        rows = _rows_of_two_stages(entries, background_first=True)
        return PublishedDetector("torchvision", detector, entries, outputs, names, rows, "torchvision")
    if f"{_DENSE_CLASSES}weight" not in entries:
        return None
    anchors = len(entries["head.regression_head.bbox_reg.weight"]) // 4
    outputs = len(entries[f"{_DENSE_CLASSES}weight"]) // anchors
    dense: type[Detector] = FCOS if "head.regression_head.bbox_ctrness.weight" in entries else RetinaNet
    names = _COCO_NAMES if outputs == len(_COCO_NAMES) else []
    rows = {f"{_DENSE_CLASSES}{kind}": ClassRows(blocks=anchors) for kind in ("weight", "bias")}
    return PublishedDetector("torchvision", dense, entries, outputs, names, rows, None)


def of_mmdetection(state: dict[str, Tensor], meta: Mapping[str, Any], path: str | Path) -> PublishedDetector:
    """The detector of MMDetection's.

    Raises:
        TaskError: It computes something that nothing here does.
    """
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
    return PublishedDetector(
        "MMDetection",
        detectors[cascade, masks],
        entries,
        outputs,
        names_in_meta(meta, outputs - 1) or (list(_COCO_IDS) if outputs == len(_COCO_IDS) + 1 else []),
        rows,
        "mmdetection",
    )


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
