"""From an image of any size to logits of the same size: at once, or by sliding windows."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Logits = Callable[[Tensor], Tensor]
"""Maps images (B, 3, H, W) to logits (B, K, H, W)."""


class Inference(ABC):
    """How a segmentor covers an image."""

    @abstractmethod
    def __call__(self, image: Tensor, logits: Logits) -> Tensor:
        """Computes logits (B, K, H, W) of images (B, 3, H, W)."""


class WholeInference(Inference):
    """The image at once."""

    def __call__(self, image: Tensor, logits: Logits) -> Tensor:
        """Computes logits (B, K, H, W) of images (B, 3, H, W)."""
        return logits(image)


class SlideInference(Inference):
    """Overlapping windows, whose logits are averaged, as in MMSegmentation.

    The last window of a row or column is moved inwards so that it stays inside the image; an image smaller than the
    window is taken as it is.

    Args:
        window: Side of the square window in pixels of the resized image.
        stride: Distance between windows in pixels, at most the window's side.
    """

    def __init__(self, window: int = 512, stride: int = 341) -> None:
        if not 1 <= stride <= window:
            raise ValueError(f"stride is {stride}, expected 1..{window}, the window's side: no pixel may be left out")
        self.window, self.stride = window, stride

    def __call__(self, image: Tensor, logits: Logits) -> Tensor:
        """Computes logits (B, K, H, W) of images (B, 3, H, W)."""
        height, width = image.shape[-2:]
        total: Tensor | None = None
        count = image.new_zeros(1, 1, height, width)
        for rows in self.spans(height):
            for columns in self.spans(width):
                found = logits(image[..., rows, columns])
                if total is None:
                    total = found.new_zeros(*found.shape[:2], height, width)
                total[..., rows, columns] += found
                count[..., rows, columns] += 1
        assert total is not None
        return torch.div(total, count)

    def spans(self, length: int) -> Iterator[slice]:
        """Windows along one side of the image."""
        steps = max(-(-(length - self.window) // self.stride), 0) + 1
        for step in range(steps):
            stop = min(step * self.stride + self.window, length)
            yield slice(max(stop - self.window, 0), stop)
