"""Samples of images with label masks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from datamodules.errors import DataError
from datamodules.image_dataset import seen_in, to_tensor
from datamodules.images import MAX_PIXELS, ReadImage, check_inside, read_image, read_mask
from datamodules.mask_values import Labels, MaskValues
from datamodules.sampling import SampleKey, seed_transforms
from datamodules.tiles import Tile, TileGrid

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
        tiles: Cuts the images into tiles, each of them a sample.
        read_mask: Decodes a mask. Default: by what its values are.
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
        tiles: TileGrid | None = None,
        read_mask: Callable[..., NDArray[Any]] | None = None,
    ) -> None:
        self.paths, self.mask_paths, self.values = paths, mask_paths, values
        self.seed, self.training, self.follow_links = seed, training, follow_links
        self.read, self.max_pixels, self.views, self.tiles = read, max_pixels, views, tiles
        self.read_mask = read_mask or mask_reader(values)
        self.transforms = A.Compose(transforms)
        self.values.table  # noqa: B018 - made now, so that workers that are forked share it

    def __len__(self) -> int:
        """Number of images, or of their tiles."""
        return len(self.paths if self.tiles is None else self.tiles)

    def place(self, index: int) -> tuple[int, Tile | None]:
        """The image of a sample, by its place in `paths`, and the tile of it, if it is cut into tiles."""
        return (index, None) if self.tiles is None else self.tiles[index]

    def __getitem__(self, key: SampleKey) -> Sample:
        """Reads and augments one image or tile; the result depends on the seed and the key alone."""
        place, tile = self.place(key.index)
        path, mask_path = self.paths[place], self.mask_paths[place]
        if not self.follow_links:
            check_inside(path.parent, path)
            check_inside(mask_path.parent, mask_path)
        stored = self._stored(mask_path)
        size = stored.shape[0], stored.shape[1]
        image = self.read(path, size=size)
        if size != image.shape[:2]:
            raise DataError(
                f"{mask_path} is {size} (height, width), but {path} is {image.shape[:2]}; "
                "expected equal sizes, take the mask that was drawn on this image"
            )
        if tile is not None:
            image = np.ascontiguousarray(image[tile.part])
        mask = self._labels(mask_path, stored, tile)
        target = {"image_id": key.index, "file_name": str(path), "original_size": torch.tensor(image.shape[:2])}
        if not self.training:
            seen = seen_in(self.views, self.transforms, image)
            return {"mask": mask_tensor(mask), "target": target, "key": key, **seen}
        seed_transforms(self.transforms, self.seed, key)
        augmented = self.transforms(image=image, mask=mask)
        seen = {"image": to_tensor(augmented["image"]), "mask": mask_tensor(augmented["mask"])}
        return {**seen, "target": target, "key": key}

    def read_labels(self, index: int) -> Labels:
        """The labels (H, W) of a sample as the model has them, 0..K-1; the largest number of their type is ignored.

        Args:
            index: Of the sample: place of an image in `paths`, or number of a tile.

        Raises:
            DataError: The mask cannot be read, or holds a value that no class has.
        """
        place, tile = self.place(index)
        path = self.mask_paths[place]
        return self._labels(path, self._stored(path), tile)

    def _stored(self, path: Path) -> NDArray[Any]:
        return self.read_mask(path, max_pixels=self.max_pixels)

    def _labels(self, path: Path, stored: NDArray[Any], tile: Tile | None) -> Labels:
        try:
            return self.values.read(stored if tile is None else np.ascontiguousarray(stored[tile.part]))
        except DataError as error:
            raise DataError(f"{path}: {error}") from None


def mask_reader(values: MaskValues) -> Callable[..., NDArray[Any]]:
    """The decoder of masks of such values: coloured ones are images."""
    return read_image if values.coloured else read_mask


def mask_tensor(labels: Labels) -> torch.Tensor:
    """Labels as a tensor: uint8 with 255 for ignored pixels, or of 16 bits with -1, which is the same as 65535."""
    return torch.from_numpy(labels if labels.dtype == np.uint8 else labels.view(np.int16))


def ignored_in(mask: torch.Tensor) -> int:
    """The label of ignored pixels in a tensor that `mask_tensor` has made."""
    return 255 if mask.dtype == torch.uint8 else -1
