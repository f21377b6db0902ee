"""Resamples of the images of a data set, the same for every model that is compared."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Scorer(Protocol):
    """What gives the scores of a run on any resample of the images."""

    @property
    def num_images(self) -> int:
        """I."""

    def scores(self, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """(1 + K,) the score, then that of each class, where image i counts `weights[i]` times."""


def image_weights(num_images: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each image is drawn, in draws of as many images with replacement: (I,) arrays.

    Args:
        num_images: I.
        resamples: How many draws.
        seed: The same seed gives the same draws.
    """
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(random.integers(0, num_images, num_images), minlength=num_images)


def resampled_scores(scorer: Scorer, resamples: int, seed: int) -> NDArray[np.float64]:
    """(R, 1 + K) scores of a run on R resamples of its images."""
    return np.stack([scorer.scores(weights) for weights in image_weights(scorer.num_images, resamples, seed)])
