"""Images without annotations, for prediction."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.image_ids import ImageIds, find_image_ids
from datamodules.images import ReadImage, read_image
from datamodules.room import LARGE
from datamodules.sampling import SampleKey


class ImageDataset(Dataset[dict[str, Any]]):
    """Image files, indexed by `SampleKey`.

    Args:
        paths: Image files.
        transforms: albumentations transforms without random numbers.
        ids: Their ids. Default: the numbers of their names, or a count.
        read: Decodes an image.
        views: Transforms of the sizes in which the model looks at an image, where it is more than one.

    Attributes:
        id_source: Where the ids are from, in one line.
    """

    def __init__(
        self,
        paths: list[Path],
        transforms: list[A.BasicTransform],
        ids: ImageIds | None = None,
        read: ReadImage = read_image,
        views: Sequence[A.BasicTransform] = (),
    ) -> None:
        self.paths, self.transforms, self.read = paths, A.Compose(transforms), read
        self.image_ids, self.id_source, self.sizes = ids or find_image_ids(paths)
        self.views = views

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """Reads and resizes one image."""
        path = self.paths[key.index]
        image = self.read(path, size=None if self.sizes is None else self.sizes[key.index])
        target = {
            "image_id": self.image_ids[key.index],
            "file_name": str(path),
            "original_size": torch.tensor(image.shape[:2]),
        }
        return {"target": target, "key": key, **seen_in(self.views, self.transforms, image)}


def seen_in(views: Sequence[A.BasicTransform], otherwise: A.Compose, image: NDArray[np.uint8]) -> dict[str, Any]:
    """An image in several sizes, under `views`, the largest of them under `image`; or in one where there are none."""
    if not views:
        return {"image": to_tensor(otherwise(image=image)["image"])}
    seen = [to_tensor(view(image=image)["image"]) for view in views]
    return {"image": max(seen, key=Tensor.numel), "views": seen}


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) pixels as a (3, H, W) tensor of its own; of a large image as another view of the same."""
    if image.shape[0] * image.shape[1] > LARGE and image.flags.writeable:
        return torch.from_numpy(image).movedim(-1, 0)
    tensor = torch.empty(3, *image.shape[:2], dtype=torch.uint8)
    cv2.split(image, list(tensor.numpy()))  # writes into the tensor, 4 times faster than numpy's transposed copy
    return tensor
