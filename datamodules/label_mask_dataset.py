"""Samples of images with label masks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.errors import DataError
from datamodules.image_dataset import seen_in, to_tensor
from datamodules.images import MAX_PIXELS, ReadImage, check_inside, read_image, read_mask
from datamodules.mask_values import Labels, MaskValues
from datamodules.sampling import SampleKey, seed_transforms

Sample = dict[str, Any]


class LabelMaskDataset(Dataset[Sample]):
    """Samples of one split, indexed by `SampleKey`.

    Args:
        paths: Image files.
        mask_paths: The mask of each image.
        values: What the values of the masks mean.
        transforms: albumentations transforms.
        seed: The run's seed.
        training: Transform the mask with the image; otherwise it keeps its original resolution.
        follow_links: Read files through links that lead out of their folder.
        read: Decodes an image.
        max_pixels: Larger masks are refused.
        views: Transforms of the sizes in which the model looks at an image in evaluation, where it is more than one.
    """

    def __init__(
        self,
        paths: list[Path],
        mask_paths: list[Path],
        values: MaskValues,
        transforms: list[A.BasicTransform],
        seed: int,
        training: bool,
        follow_links: bool = True,
        read: ReadImage = read_image,
        max_pixels: int = MAX_PIXELS,
        views: Sequence[A.BasicTransform] = (),
    ) -> None:
        self.paths, self.mask_paths, self.values = paths, mask_paths, values
        self.seed, self.training, self.follow_links = seed, training, follow_links
        self.read, self.max_pixels, self.views = read, max_pixels, views
        self.transforms = A.Compose(transforms)
        self.values.table  # noqa: B018 - made now, so that workers that are forked share it

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Reads and augments one image; the result depends on the seed and the key alone."""
        path, mask_path = self.paths[key.index], self.mask_paths[key.index]
        if not self.follow_links:
            check_inside(path.parent, path)
            check_inside(mask_path.parent, mask_path)
        mask = self.read_labels(key.index)
        image = self.read(path, size=(mask.shape[0], mask.shape[1]))
        if mask.shape != image.shape[:2]:
            raise DataError(
                f"{mask_path} is {mask.shape} (height, width), but {path} is {image.shape[:2]}; "
                "expected equal sizes, take the mask that was drawn on this image"
            )
        target = {"image_id": key.index, "file_name": str(path), "original_size": torch.tensor(image.shape[:2])}
        if not self.training:
            seen = seen_in(self.views, self.transforms, image)
            return {"mask": mask_tensor(mask), "target": target, "key": key, **seen}
        seed_transforms(self.transforms, self.seed, key)
        augmented = self.transforms(image=image, mask=mask)
        seen = {"image": to_tensor(augmented["image"]), "mask": mask_tensor(augmented["mask"])}
        return {**seen, "target": target, "key": key}

    def read_labels(self, index: int) -> Labels:
        """The labels (H, W) of a mask as the model has them, 0..K-1; the largest number of their type is ignored.

        Args:
            index: Place of the image in `paths`.

        Raises:
            DataError: The mask cannot be read, or holds a value that no class has.
        """
        path = self.mask_paths[index]
        read = read_image if self.values.coloured else read_mask
        stored = read(path, max_pixels=self.max_pixels)
        try:
            return self.values.read(stored)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None


def mask_tensor(labels: Labels) -> torch.Tensor:
    """Labels as a tensor: uint8 with 255 for ignored pixels, or of 16 bits with -1, which is the same as 65535."""
    return torch.from_numpy(labels if labels.dtype == np.uint8 else labels.view(np.int16))


def ignored_in(mask: torch.Tensor) -> int:
    """The label of ignored pixels in a tensor that `mask_tensor` has made."""
    return 255 if mask.dtype == torch.uint8 else -1
