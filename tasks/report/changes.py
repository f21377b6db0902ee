"""The images on which two configurations differ most, by the score of each image alone."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.comparison import RunScores
from tasks.report.groups import rounded

MOST = 6
"""Images of a pair that are named, of those that gained and of those that lost."""
DIGITS = 4


def image_changes(arms: Sequence[Sequence[RunScores]], pictured: Sequence[str]) -> dict[str, Any]:
    """What each image alone scores, where that says most.

    Args:
        arms: The runs of each configuration, all scored on the same images.
        pictured: Names of the pictures that the report shows.

    Returns:
        `pairs`: for each configuration, the later ones as places of the images that differ most, from the largest gain
        to the largest loss. `files` and `scores`: by place, the image's file, and its mean score of each configuration;
        null where nothing is annotated. `pictures`: places of the images by the names of their pictures.
    """
    if len(arms) < 2:
        return {}
    scores = np.stack([np.mean([run.score_images() for run in runs], axis=0) for runs in arms])
    pairs: list[list[list[int]]] = [[] for _ in arms]
    for one, other in combinations(range(len(arms)), 2):
        pairs[one].append(_most_different(scores[other] - scores[one]))
    first = arms[0][0]
    places = dict(zip(first.pictures, range(len(first.pictures)), strict=True))
    shown = {name: places[name] for name in pictured if name in places}
    named = sorted({place for rivals in pairs for most in rivals for place in most} | set(shown.values()))
    return {
        "pairs": pairs,
        "files": {place: first.images[place] for place in named},
        "scores": {place: [rounded(value, DIGITS) for value in scores[:, place].tolist()] for place in named},
        "pictures": shown,
    }


def _most_different(gains: NDArray[np.float64]) -> list[int]:
    order = np.argsort(-gains, kind="stable")  # undefined ones come last
    order = order[~np.isnan(gains[order]) & (gains[order] != 0)]
    up, down = order[gains[order] > 0][:MOST], order[gains[order] < 0][-MOST:]
    return [*map(int, up), *map(int, down)]
