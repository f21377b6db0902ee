"""Which anchors and proposals are trained on: a random choice that depends on the image alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from tasks.detectors.two_stage.assignment import NEGATIVE

Generators = list[torch.Generator | None]
"""Random numbers of every image of a batch."""


@dataclass(frozen=True)
class Chosen:
    """Boxes that were chosen, in a number that does not depend on the data, so that nothing waits for the device.

    Attributes:
        indices: (S,) their places among all boxes, positives first.
        positive: (S,) whether each is assigned to an object.
        used: (S,) whether each was chosen at all; the others fill up.
    """

    indices: Tensor
    positive: Tensor
    used: Tensor


@dataclass(frozen=True)
class Sampling:
    """Draws boxes of an image: positives up to their share, negatives up to the number.

    Attributes:
        number: Boxes of an image.
        positive_fraction: Largest share of positives among them.
    """

    number: int
    positive_fraction: float

    def __call__(self, assigned: Tensor, drawn: Tensor) -> Chosen:
        """Draws without repetition, each box being as likely as any other of its kind.

        Args:
            assigned: (N,) numbers of objects, `NEGATIVE` or `IGNORED`.
            drawn: (N,) random numbers 0..1; the boxes with the smallest ones are chosen.
        """
        positives, positive = _smallest(drawn, assigned >= 0, int(self.number * self.positive_fraction))
        negatives, negative = _smallest(drawn, assigned == NEGATIVE, self.number)
        room = self.number - positive.sum()
        negative &= torch.arange(len(negative), device=room.device) < room
        return Chosen(
            torch.cat([positives, negatives]),
            torch.cat([positive, torch.zeros_like(negative)]),
            torch.cat([positive, negative]),
        )


def _smallest(drawn: Tensor, allowed: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Places of the smallest numbers among the allowed ones, and whether each of them is allowed."""
    values, places = drawn.masked_fill(~allowed, 2.0).topk(min(number, len(drawn)), largest=False)
    return places, values < 1.5


def draw(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Random numbers (count,) in 0..1, of an image; None takes PyTorch's own generator."""
    return torch.rand(count, generator=generator, device=device, dtype=torch.float32)


def image_generators(keys: Sequence[Any] | None, count: int, seed: int, device: torch.device) -> Generators:
    """A generator for each image, from the run's seed and the image's sample key.

    So the choice does not depend on the process that an image is on, nor on its place in the batch.

    Args:
        keys: The batch's sample keys; None leaves the choice to PyTorch's own random numbers.
        count: Number of images.
        seed: The run's seed.
        device: Where numbers are drawn.
    """
    if keys is None:
        return [None] * count
    seeds = [crc32(f"{seed}/{key.epoch}/{key.index}".encode()) for key in keys]
    return [torch.Generator(device).manual_seed(of_image) for of_image in seeds]
