"""Three pictures of ADE20K and predictions made of their masks by whole numbers: the same on every machine."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules import ADE20K
from tasks.metrics import BoundaryMetric, NamedMetrics, SegmentationMetric
from tests.golden.runs import finite

Maps = list[NDArray[np.int64]]


def masks(root: Path) -> tuple[list[str], Maps]:
    """Names of the classes, and the masks as the data module hands them to the metrics."""
    data = ADE20K(root, num_workers=0)
    return data.class_names, [batch["mask"][0].numpy().astype(np.int64) for batch in data.val_dataloader()]


def prediction_of(mask: NDArray[np.int64]) -> NDArray[np.int64]:
    """A mask with mistakes: shifted pixels, a class that is never found, one that is nowhere, and no ignored pixels."""
    y, x = np.indices(mask.shape)
    shifted = np.concatenate([mask[:, :1].repeat(5, axis=1), mask], axis=1)[:, : mask.shape[1]]
    found = np.where((7 * x + 13 * y) % 11 < 3, shifted, mask)
    found = np.where((y // 9 + x // 17) % 12 == 0, np.roll(mask, 40, axis=0), found)
    found = np.where(found == 255, (x + 3 * y) // 50 % 150, found)
    return np.where(found == mask.max(where=mask < 255, initial=0), 149, found)


def numbers(root: Path) -> dict[str, Any]:
    """Areas of every class that occurs, as [intersection, ground truth, prediction] of each picture; and all scores."""
    names, targets = masks(root)
    pixels = SegmentationMetric(names)
    metrics = NamedMetrics({"pixels": pixels, "boundaries": BoundaryMetric(names)})
    for target in targets:
        metrics.update([torch.from_numpy(prediction_of(target))], [torch.from_numpy(target)])
    areas = pixels.image_areas()
    table = np.stack([areas.intersection, areas.truth, areas.predicted], axis=-1)  # (I, K, 3)
    occurs = np.flatnonzero(table.sum(axis=(0, 2)))
    confusion = pixels.confusion.numpy()
    wrong = [(names[a], names[b], int(confusion[a, b])) for a, b in np.argwhere(confusion) if a != b]
    return {
        "areas": {names[label]: table[:, label].tolist() for label in occurs},
        "mistaken": [list(entry) for entry in sorted(wrong, key=lambda entry: (-entry[2], entry))[:20]],
        "scores": finite({name: value for name, value in metrics.compute().items() if "/" not in name}),
    }
