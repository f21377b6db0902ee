"""Images without annotations, for prediction."""

from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.images import read_image
from datamodules.sampling import SampleKey


class ImageDataset(Dataset[dict[str, Any]]):
    """Image files, indexed by `SampleKey`.

    Image ids are the file names where all are distinct numbers, as in COCO; otherwise they count from 1.

    Args:
        paths: Image files.
        transforms: albumentations transforms without random numbers.
    """

    def __init__(self, paths: list[Path], transforms: list[A.BasicTransform]) -> None:
        self.paths, self.transforms = paths, A.Compose(transforms)
        numbers = {int(path.stem) for path in paths if path.stem.isdecimal()}
        named_by_id = len(numbers) == len(paths)
        self.image_ids = [int(path.stem) if named_by_id else place for place, path in enumerate(paths, start=1)]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """Reads and resizes one image."""
        path = self.paths[key.index]
        image = read_image(path)
        target = {
            "image_id": self.image_ids[key.index],
            "file_name": str(path),
            "original_size": torch.tensor(image.shape[:2]),
        }
        image = self.transforms(image=image)["image"]
        return {"image": to_tensor(image), "target": target, "key": key}


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) pixels as a (3, H, W) tensor of its own."""
    tensor = torch.empty(3, *image.shape[:2], dtype=torch.uint8)
    cv2.split(image, list(tensor.numpy()))  # writes into the tensor, 4 times faster than numpy's transposed copy
    return tensor
