"""Published weights of whole models: files of torchvision, MMDetection and MMSegmentation, recognised by their keys."""

import argparse
import json
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from backbones.weights import unwrapped
from tasks.class_tensors import DenseModel
from tasks.detectors import Detector
from tasks.detectors.conversions import is_mmdetection, is_torchvision
from tasks.errors import TaskError
from tasks.published_base import PublishedWeights
from tasks.published_detectors import of_mmdetection, of_torchvision
from tasks.published_segmentors import is_mmsegmentation, of_mmsegmentation
from tasks.segmentors import Segmentor


def read_published(path: str | Path) -> PublishedWeights | None:
    """The weights in a file of another library; None for any other file, also for a damaged one.

    Wrappers of training scripts are taken off, and nothing in the file is run.

    Args:
        path: A file that `torch.save` has written in any of its formats.

    Raises:
        TaskError: It holds a model of these libraries that cannot be one of ours.
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
    meta = meta if isinstance(meta, Mapping) else {}
    _refuse_known(entries, path)
    if is_torchvision(entries):
        return of_torchvision(entries)
    if is_mmdetection(entries):
        return of_mmdetection(entries, meta, path)
    if is_mmsegmentation(entries):
        return of_mmsegmentation(entries, meta, path)
    return None


def require_fitting(model: DenseModel, published: PublishedWeights, path: str | Path) -> None:
    """Refuses weights that would not fit a model, or fit and compute something else, by the options to set.

    Raises:
        TaskError: Class, convention or another option of the model is not the one of the weights.
    """
    kind, word = (Detector, "detector") if issubclass(published.model, Detector) else (Segmentor, "segmentor")
    if not isinstance(model, kind):
        raise TaskError(
            f"--model.weights: {path} is {published.title}, and this model is no {word} ({type(model).__name__}); "
            f"for its backbone alone use --model.backbone.weights {path}"
        )
    wanted = published.missing_options(model)
    if wanted:
        options = " ".join(f"{option} {_written(value)}" for option, value in wanted.items())
        raise TaskError(
            f"--model.weights: {path} is {published.title}, and this {type(model).__name__} would compute something "
            f"else with it; give {options}"
        )


def _written(value: object) -> str:
    return value if isinstance(value, str) else shlex.quote(json.dumps(value))


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
