"""uint8 pixels to normalised floats, on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (123.675, 116.28, 103.53)
"""Mean of RGB grey levels 0..255 over ImageNet."""
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Standard deviation of RGB grey levels 0..255 over ImageNet."""


class Normalization(nn.Module):
    """Subtracts ImageNet's mean, divides by its standard deviation, and sets padding to exactly 0.

    Args:
        mean: RGB grey levels that become 0.
        std: RGB grey levels that become one unit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor, size: Tensor) -> Tensor:
        """Normalises, without waiting for the device.

        Args:
            image: (B, 3, H, W) uint8, padded right and bottom.
            size: (B, 2) valid height and width.

        Returns:
            (B, 3, H, W) float32.
        """
        height, width = size.to(image.device)[:, :, None].unbind(dim=1)  # (B, 1)
        below = torch.arange(image.shape[2], device=image.device) >= height
        beside = torch.arange(image.shape[3], device=image.device) >= width
        normalized: Tensor = (image - self.mean) / self.std
        return normalized.masked_fill_(below[:, None, :, None] | beside[:, None, None, :], 0.0)
