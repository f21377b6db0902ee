"""Rare-class sampling (DAFormer, CVPR 2022, arXiv 2111.14887): training images are drawn by the classes they hold."""

import os
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from torch.utils.data import Dataset

from datamodules.annotation_store import cache_folder
from datamodules.errors import DataError
from datamodules.label_mask_dataset import LabelMaskDataset, Sample
from datamodules.preflight.kept import each, stamps
from datamodules.sampling import SampleKey, stable_hash

CROPS = 10
"""Crops that are tried before one is taken that holds little of its class."""


@dataclass(frozen=True)
class RareClasses:
    """How much oftener rare classes are drawn.

        P(c) = exp((1 - f_c) / temperature) / sum_c' exp((1 - f_c') / temperature)

    f_c is the share of class c among the labelled pixels of the training split; of the images that hold at least
    `least_pixels` of the class that was drawn (or any, where none holds so many) one is drawn evenly, and its crop is
    drawn again until it holds half as many, ten times at most.

    Attributes:
        temperature: The lower, the more of the rarest classes; the paper takes 0.01.
        least_pixels: Pixels of its class that a drawn image holds, in the size of the file.
    """

    temperature: float = 0.01
    least_pixels: int = 3000

    def __post_init__(self) -> None:
        """Refuses what has no meaning."""
        if not 0 < self.temperature < float("inf"):
            raise DataError(f"temperature is {self.temperature}, expected a positive number, such as 0.01")
        if self.least_pixels < 1:
            raise DataError(f"least_pixels is {self.least_pixels}, expected at least 1")


class RareClassDataset(Dataset[Sample]):
    """Draws an image for every key, instead of the one that the key names: an epoch is as long as before.

    What is drawn follows from the seed and the key alone, so it is the same for any number of processes and workers,
    and after a resume.

    Args:
        dataset: The training split.
        pixels: (I, K) labelled pixels of each class in each image.
        sampling: How to draw.
        seed: The run's seed.
    """

    def __init__(self, dataset: LabelMaskDataset, pixels: NDArray[np.int64], sampling: RareClasses, seed: int) -> None:
        if not pixels.any():
            raise DataError("no training mask has a labelled pixel, so there is no class to draw images by")
        self.dataset, self.least_pixels, self.seed = dataset, sampling.least_pixels, seed
        total = pixels.sum(axis=0)
        self.classes = np.flatnonzero(total)
        scaled = (1 - total[self.classes] / total.sum()) / sampling.temperature
        shares = np.exp(scaled - scaled.max())
        self._up_to = np.cumsum(shares / shares.sum())
        self._images = {label: _images_of(pixels[:, label], sampling.least_pixels) for label in self.classes.tolist()}

    def __len__(self) -> int:
        """Number of images of the split."""
        return len(self.dataset)

    def draw(self, key: SampleKey) -> tuple[int, int]:
        """Class and image that stand in the place of a key."""
        random = np.random.default_rng(stable_hash(self.seed, key.epoch, key.index, len(self)))
        place = int(np.searchsorted(self._up_to, random.random(), side="right"))
        label = int(self.classes[min(place, len(self.classes) - 1)])
        images = self._images[label]
        return label, int(images[random.integers(len(images))])

    def __getitem__(self, key: SampleKey) -> Sample:
        """The sample that is drawn, with the key that it was drawn for; each crop has random numbers of its own."""
        label, image = self.draw(key)
        for crop in range(CROPS):
            draw = stable_hash(key.epoch, key.index, crop)
            sample = self.dataset[SampleKey(draw, image, key.repeated)]
            if int((sample["mask"] == label).sum()) >= self.least_pixels / 2:
                break
        return sample | {"key": key}


def _images_of(pixels: NDArray[np.int64], least: int) -> NDArray[np.int64]:
    """Images with so many pixels of a class, or all that hold it."""
    return np.flatnonzero(pixels >= least if pixels.max() >= least else pixels > 0)


def class_pixels(dataset: LabelMaskDataset, num_classes: int) -> NDArray[np.int64]:
    """(I, K) pixels of each class in each mask, or tile, of a split; those of a mask that cannot be read are 0.

    All masks are read, once: the numbers are remembered for as long as the files stay as they are.
    """
    cut = () if dataset.tiles is None else (dataset.tiles.tiles.sides, dataset.tiles.tiles.overlaps)
    about = (dataset.values.key, num_classes, dataset.max_pixels, *cut, *dataset.mask_paths)
    key = xxhash.xxh3_128_hexdigest("\0".join(map(str, about)).encode(errors="surrogateescape"))
    entry = cache_folder() / "pixels" / f"{key}.npz"
    now = stamps(lambda place: [dataset.mask_paths[dataset.place(place)[0]]], range(len(dataset)))
    if (kept := _recall(entry, now)) is not None:
        return kept
    pixels = np.array(list(each(lambda place: _count(dataset, place, num_classes), range(len(dataset)))), np.int64)
    _remember(entry, lambda file: np.savez_compressed(file, allow_pickle=False, stamps=now, pixels=pixels))
    return pixels


def _count(dataset: LabelMaskDataset, place: int, num_classes: int) -> NDArray[np.int64]:
    try:
        labels = dataset.read_labels(place)
    except DataError:
        return np.zeros(num_classes, np.int64)
    return np.bincount(labels.reshape(-1), minlength=num_classes)[:num_classes]


def _recall(entry: Path, now: str) -> NDArray[np.int64] | None:
    try:
        with np.load(entry, allow_pickle=False) as content:
            pixels: NDArray[np.int64] = content["pixels"]
            return pixels if str(content["stamps"]) == now else None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):  # there is none, or it is damaged
        return None


def _remember(entry: Path, write: Callable[[Any], object]) -> None:
    temporary = entry.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
        os.replace(temporary, entry)
    except OSError:  # without a cache, the next run reads again
        temporary.unlink(missing_ok=True)
