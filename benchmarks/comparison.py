"""Scoring resampled data sets: CPU time of one resample of the images for two detectors, from their matches in memory.

`python -m benchmarks.comparison` takes a problem like val2017 with 100 detections an image (36,000 objects in 5,000
images and 80 classes for 500,000 detections), matches it once, and scores resamples of the images. Evaluating the
matched data set once again by hotcoco, which is what a resample would cost without them, is measured beside it.
"""

import os
import time

import numpy as np
import torch

from benchmarks.evaluate import CLASSES, as_batches, make_problem
from benchmarks.measure import Goal, finish, parse_options
from tasks.comparison.resampling import image_weights
from tasks.comparison.weighted_ap import WeightedAP
from tasks.metrics.coco_backends import evaluate
from tasks.metrics.matches import match
from tasks.metrics.packed_images import ImageRecord, pack

GOALS = {1000: 0.03, 5000: 0.2}
"""CPU seconds a resample of two detectors may take, by the number of images with 100 detections each."""
RESAMPLES = 21


def records_of(images: int) -> list[ImageRecord]:
    """The packed images of a problem."""
    truth, found = make_problem(images, with_masks=False)
    return [pack(prediction, target, CLASSES, False) for prediction, target in as_batches(truth, found, images)]


def goals_of(images: int) -> list[Goal]:
    """Seconds of one resample, of the matching, and of an evaluation."""
    records = records_of(images)
    start = time.process_time()
    curves = evaluate(records, CLASSES, "bbox", "hotcoco")
    evaluated = time.process_time() - start
    start = time.process_time()
    matches = match(records, CLASSES, "bbox", "hotcoco")
    matched = time.process_time() - start
    scorers = [WeightedAP(matches, images) for _ in range(2)]
    whole = np.ones(images, np.int64)
    np.testing.assert_allclose(scorers[0].scores(whole)[0], curves.precision[..., 0, 2].mean(), rtol=0, atol=1e-12)
    seconds = []
    for weights in image_weights(images, RESAMPLES, seed=0):
        start = time.process_time()
        for scorer in scorers:
            scorer.scores(weights)
        seconds.append(time.process_time() - start)
    name = f"two models of {len(matches.scores):,} detections"
    median = float(np.median(seconds))
    return [
        Goal(f"{name}: CPU s a resample", median, GOALS[images], "s", False, min(seconds), max(seconds)),
        Goal(f"{name}: evaluated twice / scored once", 2 * evaluated / median, None),
        Goal(f"one model of {len(matches.scores):,} detections: CPU s to match", matched, None, "s"),
    ]


def main() -> None:
    """Runs everything; exit code 1 when a goal was missed."""
    chosen = parse_options(__doc__.splitlines()[0])
    os.environ["RAYON_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    finish((goal for images in GOALS for goal in goals_of(images)), chosen.json)


if __name__ == "__main__":
    main()
