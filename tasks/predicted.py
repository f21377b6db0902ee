"""What a model finds in one image, in pixels of the image as it was given, and a picture of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from tasks.drawing import Colour, draw_detections, draw_label_map
from tasks.metrics import RLE

ReadPixels = Callable[[], NDArray[np.uint8]]
"""Reads the image (H, W, 3) once more, to draw on it."""


@dataclass(frozen=True, kw_only=True)
class FoundObjects:
    """The objects of one image, the surest first.

    Attributes:
        image: Path of the image; `image 3` for the fourth where they were no files.
        size: Height H and width W of the image.
        boxes: (N, 4) float32, left, top, right and bottom in pixels of the image.
        labels: (N,) int64, classes 0..K-1.
        scores: (N,) float32, 0..1.
        class_names: Names of the classes 0..K-1.
        encoded_masks: N masks as COCO's run-length codes; None where the model finds boxes only.
    """

    image: str
    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    scores: Tensor
    class_names: Sequence[str]
    encoded_masks: Sequence[RLE] | None = None
    read_pixels: ReadPixels

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.labels)

    @property
    def names(self) -> list[str]:
        """Name of the class of each object."""
        return [self.class_names[label] for label in self.labels.tolist()]

    @cached_property
    def masks(self) -> Tensor | None:
        """(N, H, W) bool, the pixels of each object; None where the model finds boxes only."""
        if self.encoded_masks is None:
            return None
        masks = [coco_mask.decode({**mask, "size": list(mask["size"])}) for mask in self.encoded_masks]
        return torch.from_numpy(np.stack(masks)).bool() if masks else torch.zeros(0, *self.size, dtype=torch.bool)

    def draw(self, min_score: float = 0.3) -> Image.Image:
        """The image with boxes, masks, names and scores; a small one is magnified.

        Args:
            min_score: Least score that is drawn.
        """
        drawn = draw_detections(
            _tensor(self.read_pixels()),
            self.boxes,
            self.labels,
            self.class_names,
            self.scores,
            self.encoded_masks,
            min_score=min_score,
        )
        picture: Image.Image = to_pil_image(drawn)
        return picture


@dataclass(frozen=True, kw_only=True)
class LabelMap:
    """The class of every pixel of one image.

    Attributes:
        image: Path of the image; `image 3` for the fourth where they were no files.
        size: Height H and width W of the image.
        labels: (H, W) classes 0..K-1, uint8, or int16 where K is above 254.
        class_names: Names of the classes 0..K-1.
        probabilities: (H, W, K) float32, 0..1; None unless they were asked for.
        palette: RGB colours of the classes, where the data set has some.
    """

    image: str
    size: tuple[int, int]
    labels: Tensor
    class_names: Sequence[str]
    probabilities: Tensor | None = None
    palette: Sequence[Colour] | None = None
    read_pixels: ReadPixels

    @property
    def shares(self) -> dict[str, float]:
        """Share of the image by class name, the largest first; classes without a pixel are left out."""
        areas = torch.bincount(self.labels.flatten().long(), minlength=len(self.class_names))
        order = areas.argsort(descending=True, stable=True).tolist()
        return {self.class_names[label]: int(areas[label]) / self.labels.numel() for label in order if areas[label]}

    def draw(self, opacity: float = 0.6) -> Image.Image:
        """The image with its classes in colours, and a legend of the largest; a small one is magnified.

        Args:
            opacity: Of the colours, 0..1.
        """
        drawn = draw_label_map(_tensor(self.read_pixels()), self.labels, self.class_names, opacity, self.palette)
        picture: Image.Image = to_pil_image(drawn)
        return picture


def _tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) pixels as (3, H, W)."""
    return torch.tensor(pixels).movedim(-1, 0)
