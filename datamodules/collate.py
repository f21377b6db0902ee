"""Batches of images of different sizes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def pad_images(
    images: Sequence[Tensor], frame: tuple[int, int] | None = None, multiple: int = 32, value: int = 0
) -> Tensor:
    """Stacks images, padded right and bottom. A single one that needs no padding is not copied.

    Args:
        images: Tensors (..., H_i, W_i) with equal leading dimensions.
        frame: Height and width of the result. Default: the largest of the images, rounded up.
        multiple: Number that height and width are rounded up to a multiple of, where no frame is given.
        value: What the padding is filled with.

    Returns:
        (B, ..., H, W).
    """
    if frame is None:
        height = max(image.shape[-2] for image in images)
        width = max(image.shape[-1] for image in images)
        frame = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
    if len(images) == 1 and images[0].shape[-2:] == frame:
        return images[0][None]
    batch = images[0].new_full((len(images), *images[0].shape[:-2], *frame), value)
    for padded, image in zip(batch, images, strict=True):
        padded[..., : image.shape[-2], : image.shape[-1]] = image
    return batch


def valid_sizes(images: Sequence[Tensor]) -> Tensor:
    """Height and width (B, 2) of the images before padding."""
    return torch.tensor([image.shape[-2:] for image in images])


def collate_images(samples: Sequence[dict[str, Any]], frame: tuple[int, int] | None, multiple: int) -> dict[str, Any]:
    """What the batches of all data sets have in common.

    Args:
        samples: Dictionaries with `image`, `target` and `key`.
        frame: Height and width of the images. Default: the largest of them, rounded up.
        multiple: Number that height and width are rounded up to a multiple of.

    Returns:
        `image`, `size`, `repeated`, `keys` and `targets`, as the data modules document them.
    """
    images = [sample["image"] for sample in samples]
    keys = [sample["key"] for sample in samples]
    return {
        "image": pad_images(images, frame, multiple),
        "size": valid_sizes(images),
        "repeated": torch.tensor([key.repeated for key in keys]),
        "keys": keys,
        "targets": [sample["target"] for sample in samples],
    }
