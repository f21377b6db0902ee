"""Weights of classes in losses, from how many pixels each class has."""

import json
from pathlib import Path
from typing import Any

import numpy as np


def balanced_weights(counts: list[float]) -> list[float]:
    """Weights with which every class counts as much as every other one.

        w_k = sum(n) / (K' n_k),    K' classes with pixels; 0 for the others

    Args:
        counts: Pixels n_k of each class in the training images.
    """
    present = sum(count > 0 for count in counts)
    return [sum(counts) / (present * count) if count > 0 else 0.0 for count in counts]


def read_counts(source: str | list[float]) -> list[float]:
    """Numbers of pixels, given as they are or by a file: a list in JSON, an array of NumPy, or a number a line.

    Raises:
        ValueError: The file cannot be read, or holds something else.
    """
    if not isinstance(source, str):
        counts = [*source]
    else:
        path = Path(source)
        try:
            read = {".json": lambda: json.loads(path.read_text()), ".npy": lambda: np.load(path).tolist()}
            counts = read.get(path.suffix, lambda: [float(word) for word in path.read_text().split()])()
        except (OSError, ValueError) as error:
            raise ValueError(
                f"pixel_counts is {source}, which cannot be read ({error}); give a .json, .npy or text file, or the "
                "numbers themselves"
            ) from error
    if not isinstance(counts, list) or not counts or not all(isinstance(n, int | float) and n >= 0 for n in counts):
        raise ValueError(f"pixel_counts {source} holds no list of numbers of pixels; give one number for each class")
    return counts


def with_class_weights(config: Any, num_classes: int) -> Any:
    """A config in which `class_weight: balanced` of any loss has become numbers, by the `pixel_counts` beside it.

    Args:
        config: Of a head.
        num_classes: K.

    Raises:
        ValueError: There are no counts, or not one for each class.
    """
    if isinstance(config, list | tuple):
        return type(config)(with_class_weights(part, num_classes) for part in config)
    if not isinstance(config, dict):
        return config
    changed = {name: with_class_weights(value, num_classes) for name, value in config.items()}
    counts, weight = changed.pop("pixel_counts", None), changed.get("class_weight")
    if weight == "balanced":
        if counts is None:
            raise ValueError(
                f"{config.get('type')} has class_weight balanced; give pixel_counts beside it, the pixels of each "
                "class or a file with them"
            )
        changed["class_weight"] = weight = balanced_weights(read_counts(counts))
    if isinstance(weight, list) and len(weight) != num_classes:
        raise ValueError(
            f"{config.get('type')} has {len(weight)} class weights for {num_classes} classes; give one for each"
        )
    return changed
