"""The samples of one split in COCO's layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.coco_annotations import AnnotationFile, clipped_corners
from datamodules.errors import DataError
from datamodules.geometry import ResizeAndCrop
from datamodules.image_dataset import to_tensor
from datamodules.images import ReadImage, check_inside, read_image
from datamodules.instances import draw_masks, encode_mask, stack_masks
from datamodules.resampling import Window
from datamodules.sampling import SampleKey, seed_transforms
from datamodules.tiles import Tile, TileGrid

Sample = dict[str, Any]


class COCODataset(Dataset[Sample]):
    """Samples of one split, indexed by `SampleKey`.

    Args:
        folder: Folder of the images.
        annotations: The split's annotation file.
        labels: (K,) label that the model has for each class of the file.
        transforms: albumentations transforms, of which one `ResizeAndCrop` moves pixels.
        seed: The run's seed.
        training: Give what only training needs, and leave the ground truth out, which only validation needs.
        follow_links: Read images through links that lead out of the folder.
        masks: Give the masks of the objects, too.
        images: Images of the file that are samples, by their place in it. Default: all.
        read: Decodes an image.
        training_targets: Give what only training needs in validation, too.
        tiles: Cuts the images into tiles, each of them a sample.
    """

    def __init__(
        self,
        folder: Path,
        annotations: AnnotationFile,
        labels: NDArray[np.int64],
        transforms: list[A.BasicTransform],
        seed: int,
        training: bool,
        follow_links: bool = True,
        masks: bool = False,
        images: Sequence[int] | NDArray[np.intp] | None = None,
        read: ReadImage = read_image,
        training_targets: bool = False,
        tiles: TileGrid | None = None,
    ) -> None:
        self.folder, self.annotations, self.labels = folder, annotations, labels
        self.seed, self.training, self.follow_links, self.masks = seed, training, follow_links, masks
        self.images, self.read = range(len(annotations)) if images is None else images, read
        self.with_losses, self.tiles = training or training_targets, tiles
        self.geometry = _geometry(transforms)
        self.transforms = A.Compose(transforms, bbox_params=_box_params())

    def __len__(self) -> int:
        """Number of images, or of their tiles."""
        return len(self.images if self.tiles is None else self.tiles)

    @property
    def paths(self) -> list[Path]:
        """Image files, in the order of the images."""
        return [self.folder / self.annotations.file_names[image] for image in self.images]

    def __getitem__(self, key: SampleKey) -> Sample:
        """Reads and augments one image or tile; the result depends on the seed and the key alone."""
        place, tile = (key.index, None) if self.tiles is None else self.tiles[key.index]
        file, image = self.annotations, int(self.images[place])
        path = self.folder / str(file.file_names[image])
        if not self.follow_links:
            check_inside(self.folder, path)
        height, width = (int(side) for side in file.sizes[image])
        pixels = self.read(path, size=(height, width))
        if pixels.shape[:2] != (height, width):
            raise DataError(
                f"{path} is {pixels.shape[0]} x {pixels.shape[1]} (height x width), {file.path} says {height} x "
                f"{width} of image {file.image_ids[image]}, and no EXIF orientation turns it so; the boxes would be "
                "misplaced"
            )
        where = file.of_image(image)
        corners, crowd = clipped_corners(file.boxes[where], file.sizes[image]), file.iscrowd[where]
        has_area = (corners[:, 2:] > corners[:, :2]).all(axis=1)
        objects, ignored = has_area & ~crowd, has_area & crowd
        if tile is not None and self.tiles is not None:
            pixels = np.ascontiguousarray(pixels[tile.part])
            corners, visible = tile.see(corners)
            enough = (visible > 0) & (visible >= self.tiles.tiles.least_visible)
            objects, ignored = objects & enough, (visible > 0) & (ignored | objects & ~enough)
        usable = np.flatnonzero(objects)
        seed_transforms(self.transforms, self.seed, key)
        augmented = self.transforms(image=pixels, bboxes=corners[usable], row=usable)
        target = {
            "image_id": int(file.image_ids[image]),
            "file_name": str(path),
            "original_size": torch.tensor(pixels.shape[:2]),
            **self._objects(image, augmented["bboxes"], augmented["row"], tile),
        }
        if self.with_losses:
            target["crowd"] = _moved_boxes(corners[ignored], self.geometry.window)
        if not self.training:
            target["ground_truth"] = self._ground_truth(image)
        return {"image": to_tensor(augmented["image"]), "target": target, "key": key}

    def _objects(self, image: int, boxes: Any, rows: Any, tile: Tile | None) -> dict[str, Tensor]:
        """The objects that are left in the frame: boxes (N, 4) xyxy, and which annotations of the image they are."""
        file, where = self.annotations, self.annotations.of_image(image)
        boxes, rows = np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(rows, np.int64)
        masks = {}
        if self.masks and self.with_losses:
            window, size = self.geometry.window, tuple(file.sizes[image].tolist())
            part = None
            if tile is not None:
                window, part = window._replace(top=window.top + tile.top, left=window.left + tile.left), tile.part
            patches = draw_masks(map(file.segmentation, where.start + rows), size, window, part)
            seen = [place for place, patch in enumerate(patches) if patch.pixels.any()]
            boxes, rows = boxes[seen], rows[seen]
            masks["masks"] = torch.from_numpy(stack_masks([patches[place] for place in seen], window.size))
        return {
            "boxes": torch.from_numpy(boxes),
            "labels": torch.from_numpy(self.labels[file.labels[where]][rows]),
            "area": torch.from_numpy(file.area[where][rows]),
            "iscrowd": torch.from_numpy(file.iscrowd[where][rows]),
            **masks,
        }

    def _ground_truth(self, image: int) -> dict[str, Any]:
        """Every annotation of an image as it stands in the file; copies, because the columns are read-only."""
        file, where = self.annotations, self.annotations.of_image(image)
        size = tuple(file.sizes[image].tolist())
        truth = {
            "image_id": int(file.image_ids[image]),
            "original_size": size,
            "boxes": file.boxes[where].copy(),
            "labels": self.labels[file.labels[where]],
            "area": file.area[where].copy(),
            "iscrowd": file.iscrowd[where].copy(),
        }
        if self.masks:
            truth["masks"] = [encode_mask(file.segmentation(row), size) for row in range(where.start, where.stop)]
        return truth


def _geometry(transforms: list[A.BasicTransform]) -> ResizeAndCrop:
    """The one transform that moves pixels."""
    moving = [transform for transform in transforms if not isinstance(transform, A.ImageOnlyTransform)]
    if len(moving) == 1 and isinstance(moving[0], ResizeAndCrop):
        return moving[0]
    names = ", ".join(type(transform).__name__ for transform in moving) or "nothing"
    raise DataError(
        f"{names} of the pipeline moves pixels, expected one datamodules.geometry.ResizeAndCrop, whose window crowd "
        "regions and masks follow; draw all of it in the window of one class derived from that"
    )


def _moved_boxes(corners: NDArray[np.float64], window: Window) -> Tensor:
    """Boxes (N, 4) xyxy of the image in the frame of a window, clipped, without those outside."""
    moved = np.sort(window.move(corners.reshape(-1, 2, 2)), axis=1).clip(0, window.size[::-1])
    inside = (moved[:, 1] > moved[:, 0]).all(axis=1)
    return torch.from_numpy(moved[inside].reshape(-1, 4).astype(np.float32))


def _box_params() -> A.BboxParams:
    """Boxes are clipped to the image; what keeps less than one pixel of width or height is dropped with its row.

    albumentations computes in float32, where the two sides of a very thin box can coincide: such boxes are dropped
    at the start, where it would raise.
    """
    return A.BboxParams(
        format="pascal_voc",
        label_fields=["row"],
        clip=True,
        filter_invalid_bboxes=True,
        min_width=1.0,
        min_height=1.0,
    )
