"""What every detector shares: normalisation on the device, and the way back to original pixels."""

from abc import abstractmethod
from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar, get_type_hints

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from backbones import Backbone
from tasks.batch import Batch
from tasks.class_tensors import DenseModel
from tasks.errors import TaskError
from tasks.losses import Losses
from tasks.normalization import Normalization
from tasks.precision import at_least_float32

Detections = list[dict[str, Any]]


class Detector(DenseModel):
    """A model from batches to losses (in training) or to detections (in evaluation).

    The batch is the one of `datamodules.COCO`. Losses are named scalars whose sum is minimised. Detections are one
    dictionary per image: `boxes` (N, 4) xyxy in pixels of the original image, `scores` (N,) in 0..1 in decreasing
    order, `labels` (N,) int64 in 0..K-1; and, of a detector of masks, `masks`: N RLEs at the original size, from
    `instance_masks.encode_masks`.

    Attributes:
        with_masks: Whether it finds masks: its detections have them, and they are scored beside the boxes.
    """

    with_masks: ClassVar[bool] = False

    anchor_generator: Any
    normalization: Normalization

    @abstractmethod
    def forward(self, batch: Batch) -> Losses | Detections:
        """Computes losses in training mode, detections otherwise."""

    def image_list(self, batch: Batch) -> ImageList:
        """Normalised images with the sizes of their valid parts, in torchvision's form."""
        sizes = [(int(height), int(width)) for height, width in batch["size"].tolist()]
        return ImageList(self.normalization(batch["image"], batch["size"]), sizes)

    def anchors(self, images: ImageList, features: list[Tensor]) -> list[Tensor]:
        """Anchors (A, 4) of every image, xyxy in pixels, in float32 or better.

        Anchors have the precision of what they are made from. Of features in bfloat16 they would be up to 8 pixels
        beside their place at the far side of an image, and some would have no width.
        """
        shapes = [
            torch.empty((), dtype=at_least_float32(feature.dtype), device=feature.device).expand(feature.shape)
            for feature in features
        ]
        found: list[Tensor] = self.anchor_generator(images, shapes)
        return found

    def as_training(self, batch: Batch, position: int) -> list[Batch]:
        """A batch of the image alone, padded as it is."""
        target, wanted = batch["targets"][position], {"boxes", "labels"} | ({"masks"} if self.with_masks else set())
        if missing := sorted(wanted - target.keys()):
            raise TaskError(
                f"--model.validation_loss true needs {missing[0]} of validation images as of training images, and the "
                "data module gives none; leave the option out, or use datamodules.COCO"
            )
        one = {name: batch[name][position : position + 1] for name in ("image", "size", "targets", "keys")}
        one["keys"] = [key._replace(epoch=0) for key in one["keys"]]  # the same anchors and proposals in every epoch
        return [one]

    @staticmethod
    def to_original(detections: Detections, batch: Batch) -> Detections:
        """Scales boxes from the resized images to the original ones, in place."""
        for found, size, target in zip(detections, batch["size"], batch["targets"], strict=True):
            height, width = (target["original_size"].to(size.device).float() / size).tolist()
            boxes = found["boxes"].float()
            found["boxes"] = boxes * boxes.new_tensor([width, height, width, height])
        return detections


DetectorBuilder = Callable[[Backbone, int], Detector]
"""Builds a detector from a backbone and the number of classes."""


def learns_masks(chosen: Any) -> bool:
    """Whether the detector that a command line has chosen needs masks of objects.

    Args:
        chosen: Its `class_path` is that of a class, or of a function that says by its annotation what it returns.
    """
    module, _, name = chosen.class_path.rpartition(".")
    found = getattr(import_module(module), name)
    built = found if isinstance(found, type) else get_type_hints(found).get("return")
    return bool(getattr(built, "with_masks", False))
