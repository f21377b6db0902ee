"""The pipelines that `benchmarks.pipeline` compares with: the same augmentation written in other packages.

Colour: torchvision's RandomPhotometricDistort and MMSegmentation's PhotoMetricDistortion apply each change with
probability one half, as ours does; albumentations' ColorJitter applies all four at once, so it gets probability one
half as a whole. MMSegmentation normalises on the device, as we do; the other two normalise in the worker.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import albumentations as A
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from mmcv.transforms import RandomFlip, RandomResize
from mmseg.datasets.transforms import PackSegInputs, PhotoMetricDistortion, RandomCrop
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torchvision import tv_tensors
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Photograph(NamedTuple):
    """A decoded photograph.

    Attributes:
        image: (H, W, 3) RGB.
        boxes: (N, 4) xyxy in pixels.
        mask: (H, W) labels.
        polygons: A segmentation of each box, as in COCO's file.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    mask: NDArray[np.uint8]
    polygons: list[list[list[float]]]


Run = Callable[[Photograph], object]


def torchvision_shorter_side() -> Run:
    """Shorter side 800, longest 1333."""
    return _torchvision_detection(v2.Resize(800, max_size=1333), v2.RandomPhotometricDistort())


def torchvision_large_scale_jitter() -> Run:
    """Scale 0.1..2 of 1024 x 1024, cropped and padded to it."""
    return _torchvision_detection(v2.ScaleJitter((1024, 1024), (0.1, 2.0)), v2.RandomCrop(1024, pad_if_needed=True))


def torchvision_instances() -> Run:
    """Shorter side 800, longest 1333, with the masks of its reference recipe: drawn in the image, then resized."""
    return _torchvision_detection(v2.Resize(800, max_size=1333), masks=True)


def torchvision_masks(photo: Photograph) -> tv_tensors.Mask:
    """(N, H, W) masks of a photograph's polygons."""
    size = photo.image.shape[:2]
    masks = [coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(of_one, *size))) for of_one in photo.polygons]
    return tv_tensors.Mask(torch.from_numpy(np.stack(masks)))


def torchvision_segmentation() -> Run:
    """Shorter side 256..1024, crop 512; without a condition on its classes."""
    fill: dict[Any, int] = {tv_tensors.Image: 0, tv_tensors.Mask: 255}
    crop = v2.RandomCrop(512, pad_if_needed=True, fill=fill)
    chain = v2.Compose(
        [v2.RandomResize(256, 1024), crop, v2.RandomHorizontalFlip(), v2.RandomPhotometricDistort(), *_as_floats()]
    )
    return lambda photo: chain(_torchvision_image(photo), tv_tensors.Mask(torch.from_numpy(photo.mask)))


def _torchvision_detection(*transforms: v2.Transform, masks: bool = False) -> Run:
    chain = v2.Compose([*transforms, v2.RandomHorizontalFlip(), *_as_floats(), v2.SanitizeBoundingBoxes()])

    def run(photo: Photograph) -> object:
        size = photo.image.shape[:2]
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(photo.boxes), format="XYXY", canvas_size=size)
        target = {"boxes": boxes, "labels": torch.arange(len(boxes))}
        return chain(_torchvision_image(photo), target | ({"masks": torchvision_masks(photo)} if masks else {}))

    return run


def _torchvision_image(photo: Photograph) -> tv_tensors.Image:
    return tv_tensors.Image(torch.from_numpy(photo.image).permute(2, 0, 1))


def _as_floats() -> list[v2.Transform]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


def albumentations_shorter_side() -> Run:
    """Shorter side 800; photographs are never longer than 1333 then."""
    colour = A.ColorJitter(0.125, 0.5, 0.5, 0.05, p=0.5)
    return _albumentations([A.SmallestMaxSize(800), A.HorizontalFlip(), colour, *_albumentations_floats()])


def albumentations_large_scale_jitter() -> Run:
    """Scale 0.1..2 of 1024 x 1024, cropped and padded to it."""
    jitter = [A.LongestMaxSize(1024), A.RandomScale((-0.9, 1.0), p=1), A.PadIfNeeded(1024, 1024, position="top_left")]
    return _albumentations([*jitter, A.RandomCrop(1024, 1024), A.HorizontalFlip(), *_albumentations_floats()])


def albumentations_segmentation() -> Run:
    """Shorter side 256..1024, crop 512; without a condition on its classes."""
    chain = A.Compose(
        [
            A.SmallestMaxSize(512),
            A.RandomScale((-0.5, 1.0), p=1),
            A.PadIfNeeded(512, 512, position="top_left", fill_mask=255),
            A.RandomCrop(512, 512),
            A.HorizontalFlip(),
            A.ColorJitter(0.125, 0.5, 0.5, 0.1, p=0.5),
            *_albumentations_floats(),
        ]
    )
    return lambda photo: chain(image=photo.image, mask=photo.mask)


def _albumentations(transforms: list[A.BasicTransform]) -> Run:
    chain = A.Compose(transforms, A.BboxParams("pascal_voc", label_fields=["labels"], clip=True))
    return lambda photo: chain(image=photo.image, bboxes=photo.boxes, labels=np.arange(len(photo.boxes)))


def _albumentations_floats() -> list[A.BasicTransform]:
    return [A.Normalize(MEAN, STD), ToTensorV2()]


def mmsegmentation() -> Run:
    """Its ADE20K recipe without loading."""
    steps = [
        RandomResize(scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
        RandomCrop((512, 512), cat_max_ratio=0.75),
        RandomFlip(prob=0.5),
        PhotoMetricDistortion(),
        PackSegInputs(meta_keys=()),
    ]

    def run(photo: Photograph) -> object:
        sample: dict[str, Any] = {"img": photo.image, "gt_seg_map": photo.mask, "seg_fields": ["gt_seg_map"]}
        for step in steps:
            sample = step(sample)
        return sample

    return run
