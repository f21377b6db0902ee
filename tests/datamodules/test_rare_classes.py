"""Rare-class sampling: what is drawn how often, for any number of workers; and what is remembered of the masks."""

import math
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import ADE20K, DataError, RandomRatioCrop
from datamodules.label_mask_dataset import LabelMaskDataset
from datamodules.rare_classes import RareClassDataset, RareClasses, class_pixels
from datamodules.sampling import SampleKey

PIXELS = np.array([[9000, 0, 10, 0, 0], [5000, 3000, 0, 0, 0], [0, 4000, 70, 0, 0], [8000, 2999, 0, 1, 0]])


class Split:
    """As many images as `PIXELS` has rows, which are never read."""

    def __len__(self) -> int:
        return len(PIXELS)


def slow_probabilities(temperature: float) -> tuple[dict[int, float], dict[int, float]]:
    """Of each class and of each image, from the equations of the paper, one by one."""
    total = sum(int(value) for row in PIXELS for value in row)
    shares = {label: sum(int(row[label]) for row in PIXELS) / total for label in range(5)}
    weights = {label: math.exp((1 - share) / temperature) for label, share in shares.items() if share > 0}
    classes = {label: weight / sum(weights.values()) for label, weight in weights.items()}
    images = dict.fromkeys(range(4), 0.0)
    holding = {0: [0, 1, 3], 1: [1, 2], 2: [0, 2], 3: [3]}  # of classes 2 and 3 no image has 3000 pixels
    for label, of_class in holding.items():
        for image in of_class:
            images[image] += classes[label] / len(of_class)
    return classes, images


@pytest.mark.parametrize("temperature", [0.2, 1.0, pytest.param(0.5, marks=pytest.mark.slow)])
def test_classes_and_images_are_drawn_as_the_equations_say(temperature: float) -> None:
    sampled = RareClassDataset(Split(), PIXELS, RareClasses(temperature), seed=3)  # type: ignore[arg-type]
    count = 20_000
    draws = [sampled.draw(SampleKey(epoch, index, False)) for epoch in range(count // 4) for index in range(4)]
    for position, expected in enumerate(slow_probabilities(temperature)):
        drawn = Counter(draw[position] for draw in draws)
        assert drawn.keys() == expected.keys()
        for value, share in expected.items():
            assert abs(drawn[value] / count - share) < 5 * math.sqrt(share * (1 - share) / count), (value, share)


def test_the_lowest_temperature_draws_the_rarest_class() -> None:
    sampled = RareClassDataset(Split(), PIXELS, RareClasses(1e-6), seed=3)  # type: ignore[arg-type]
    assert {sampled.draw(SampleKey(0, index, False)) for index in range(50)} == {(3, 3)}
    with pytest.raises(DataError, match="temperature is 0, expected a positive number"):
        RareClasses(0)
    with pytest.raises(DataError, match="no training mask has a labelled pixel"):
        RareClassDataset(Split(), 0 * PIXELS, RareClasses(), seed=3)  # type: ignore[arg-type]


def module(root: Path, workers: int = 0, **options: object) -> ADE20K:
    pipeline = RandomRatioCrop(longest=140, shorter=100, crop=40, ratio=(0.8, 1.5))
    sampling = RareClasses(temperature=0.3, least_pixels=60)
    return ADE20K(
        root / "ade20k", pipeline=pipeline, batch_size=4, num_workers=workers, rare_classes=sampling, **options
    )


def test_samples_follow_from_the_key_and_hold_their_class(shapes: Path) -> None:
    dataset = module(shapes).train_dataset()
    assert isinstance(dataset, RareClassDataset) and len(dataset) == 12
    again = pickle.loads(pickle.dumps(dataset))
    keys = [SampleKey(epoch, index, False) for epoch in (0, 1) for index in range(12)]
    held, masks = 0, {}
    for key in keys:
        sample, (label, image) = dataset[key], dataset.draw(key)
        assert sample["key"] == key and sample["target"]["image_id"] == image
        assert torch.equal(again[key]["image"], sample["image"])
        held += int((sample["mask"] == label).sum()) >= 30
        masks.setdefault(image, []).append(sample["mask"])
    assert held >= 20  # of 24; one crop in so many has its class at the border
    several = next(found for found in masks.values() if len(found) > 2)
    assert any(not torch.equal(several[0], other) for other in several[1:])  # each has a crop of its own
    assert any(dataset.draw(keys[index]) != dataset.draw(keys[index + 12]) for index in range(12))


def test_loaders_are_equal_for_any_number_of_workers(shapes: Path) -> None:
    plain = list(module(shapes).train_dataloader())
    for batch, other in zip(plain, module(shapes, workers=2).train_dataloader(), strict=True):
        assert batch["keys"] == other["keys"]
        for name in ("image", "mask"):
            assert torch.equal(batch[name], other[name])
    again = module(shapes).batch_of(plain[1]["keys"])
    assert torch.equal(again["image"], plain[1]["image"]) and len(plain) == 3


def test_masks_are_read_once(shapes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ATTNDENSE_CACHE", str(tmp_path))
    split = module(shapes).train_dataset().dataset
    first = class_pixels(split, 9)
    expected = [np.bincount(split.read_labels(place).flatten(), minlength=9)[:9] for place in range(12)]
    np.testing.assert_array_equal(first, expected)
    assert first.shape == (12, 9) and (first.sum(axis=1) > 0).all()

    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(LabelMaskDataset, "read_labels", refuse)
    np.testing.assert_array_equal(class_pixels(split, 9), first)
    (entry,) = (tmp_path / "pixels").iterdir()
    entry.write_bytes(entry.read_bytes()[:100])
    with pytest.raises(AssertionError, match="read again"):
        class_pixels(split, 9)
