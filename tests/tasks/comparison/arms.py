"""Simulated runs of two methods, whose true difference is known."""

import numpy as np

from tasks.comparison import Arm, image_weights

IMAGES = 300


def simulated_arm(
    random: np.random.Generator, runs: int, seed_noise: float, columns: int, weights: np.ndarray, mean: float = 0.0
) -> Arm:
    """Runs of a method in many independent columns.

    An image is harder or easier for a method (deviation 1, the same for all its runs), besides differently for each run
    (0.5); a run is better or worse by its seed. The population mean is `mean`.
    """
    of_images = random.standard_normal((IMAGES, columns))
    of_runs = np.stack([mean + seed_noise * random.standard_normal(columns) for _ in range(runs)])
    values = [of_images + 0.5 * random.standard_normal((IMAGES, columns)) + run for run in of_runs]
    scores = np.stack([value.mean(axis=0) for value in values])
    return Arm(f"{runs} runs", scores, weights @ np.mean(values, axis=0) / IMAGES, IMAGES)


def shared_weights(resamples: int = 300) -> np.ndarray:
    """(R, I) draws of the images."""
    return np.stack([*image_weights(IMAGES, resamples, seed=0)]).astype(float)
