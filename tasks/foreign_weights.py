"""Whole detectors as torchvision and MMDetection publish them: their weights under our names, and their classes."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from backbones.weight_sources import read_file
from tasks.class_tensors import DenseModel
from tasks.detectors.conversions import from_mmdetection, from_torchvision, is_mmdetection, is_torchvision
from tasks.detectors.two_stage.convention import ConventionName
from tasks.detectors.two_stage.detector import TwoStageDetector
from tasks.errors import TaskError

TORCHVISION_CLASSES: list[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
"""Names of COCO's category ids 0 to 90: the background, 80 classes, and gaps called N/A."""
COCO_CLASSES = [name for name in TORCHVISION_CLASSES if name not in ("__background__", "N/A")]


@dataclass(frozen=True)
class ForeignWeights:
    """Weights of another library's detector.

    Attributes:
        path: The file, for messages.
        library: Who has trained it, and by whose convention it computes.
        entries: Tensors under our names; those of the backbone may have others.
        class_names: Names of its classes, as it numbers them without the background.
        corrected: Of the backbone's entries those that differ from the file.
    """

    path: str
    library: ConventionName
    entries: dict[str, Tensor]
    class_names: list[str]
    corrected: dict[str, Tensor] = field(default_factory=dict)

    def require_convention_of(self, model: DenseModel) -> None:
        """Refuses a detector that would compute something else with these weights.

        Raises:
            TaskError: It has the other convention.
        """
        if isinstance(model, TwoStageDetector) and model.convention.name != self.library:
            raise TaskError(
                f"--model.weights: {self.path} is of {self.library}, and the detector has convention="
                f"{model.convention.name}: it would compute something else; use --model.detector.convention "
                f"{self.library}"
            )


def read_foreign_weights(path: str | Path) -> ForeignWeights | None:
    """Weights of a detector of torchvision's or MMDetection's; None if the file is something else, or unreadable.

    Whatever it holds, no code of it is run.

    Raises:
        TaskError: The file is such a detector, but damaged.
    """
    if not Path(path).is_file():
        return None
    try:
        content: Any = read_file(str(path), str(path))
    except ValueError:
        return None  # the reader of checkpoints says what is wrong with it
    state = content.get("state_dict", content.get("model", content)) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        return None
    if is_mmdetection(state):
        _require_whole(path)
        return ForeignWeights(str(path), "mmdetection", from_mmdetection(state), _mmdetection_classes(content))
    if is_torchvision(state):
        _require_whole(path)
        entries = from_torchvision(state)
        corrected = {
            name: value
            for name, value in entries.items()
            if name.startswith("backbone.") and name.endswith(".running_var")
        }
        first = 1 if any(name.startswith("roi_heads.") for name in state) else 0  # RetinaNet counts the background
        return ForeignWeights(str(path), "torchvision", entries, TORCHVISION_CLASSES[first:], corrected)
    return None


def _mmdetection_classes(content: Mapping[str, Any]) -> list[str]:
    """Classes that a checkpoint of MMDetection 2 or 3 names, or COCO's."""
    meta = content.get("meta") or {}
    known = meta.get("dataset_meta") or meta
    return list(known.get("classes") or known.get("CLASSES") or COCO_CLASSES)


def _require_whole(path: str | Path) -> None:
    """Refuses an archive whose contents are not what was written; older files cannot be checked."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
        if wrong is not None:
            raise TaskError(f"{path} is damaged: the contents of {wrong} are not what was written; fetch it again")
