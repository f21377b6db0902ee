"""Order, padding and random numbers are functions of (seed, epoch, index)."""

import zlib

import albumentations as A
import numpy as np
import pytest

from datamodules.photometric import PhotoMetricDistortion
from datamodules.sampling import KeySampler, SampleKey, seed_transforms, stable_hash

IMAGE = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("size", range(1, 12))
def test_ranks_share_the_data_set_exactly_once(size: int, world_size: int, shuffle: bool) -> None:
    samplers = [KeySampler(size, shuffle, 0, rank, world_size) for rank in range(world_size)]
    dealt = [list(sampler) for sampler in samplers]
    assert {len(keys) for keys in dealt} == {-(-size // world_size)} == {len(sampler) for sampler in samplers}
    keys = [key for keys in dealt for key in keys]
    assert sorted(key.index for key in keys if not key.repeated) == list(range(size))
    assert sum(key.repeated for key in keys) == -size % world_size
    assert all(keys[-1].repeated for keys in dealt if any(key.repeated for key in keys))


def test_validation_is_in_order() -> None:
    assert [key.index for key in KeySampler(5, False, 0)] == [0, 1, 2, 3, 4]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[SampleKey]:
        sampler = KeySampler(20, True, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 1) == order(0, 1)
    assert all(key.epoch == 1 for key in order(0, 1))
    orders = [tuple(key.index for key in order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(set(orders)) == 6


def test_stable_hash_is_stable_and_tells_arguments_apart() -> None:
    assert stable_hash(42, 0, 7) == zlib.crc32(b"42/0/7") == 2203306084
    assert len({stable_hash(*parts) for parts in ((1, 23), (12, 3), (1, 2, 3), (123,), (-1, 23))}) == 5


def draws(seeding: str, keys: list[SampleKey], probability: float = 0.5) -> tuple[list[bool], list[bool]]:
    """Which samples are flipped left-right, and which top-bottom, in a pipeline of the two."""
    pipeline = A.Compose([A.HorizontalFlip(p=probability), A.VerticalFlip(p=probability)])
    horizontal, vertical = [], []
    for key in keys:
        if seeding == "ours":
            seed_transforms(pipeline, 0, key)
        else:
            pipeline.set_random_seed(stable_hash(0, key.epoch, key.index))
        image = pipeline(image=IMAGE)["image"]
        horizontal.append(bool(image[0, 0, 0] % 24 != 0))
        vertical.append(bool(image[0, 0, 0] >= 8 * 3 * 7))
    return horizontal, vertical


KEYS = [SampleKey(epoch, index, False) for epoch in range(2) for index in range(100)]


def test_draws_of_different_transforms_are_independent() -> None:
    horizontal, vertical = draws("ours", KEYS)
    assert abs(np.corrcoef(horizontal, vertical)[0, 1]) < 0.25
    assert 70 < sum(horizontal) < 130 and 70 < sum(vertical) < 130


def test_albumentations_own_seeding_ties_transforms_together() -> None:
    """The reason for `seed_transforms`; when this fails, albumentations has changed and it can go."""
    horizontal, vertical = draws("theirs", KEYS)
    assert horizontal == vertical and len(set(horizontal)) == 2


def test_flip_and_photometric_distortion_are_independent() -> None:
    grey = np.full((4, 4, 3), 100, np.uint8)
    grey[:, :2] = 110
    pipeline = A.Compose([PhotoMetricDistortion(contrast=(1, 1), saturation=(1, 1), hue=0), A.HorizontalFlip(p=0.5)])
    flipped, shifted = [], []
    for key in KEYS:
        seed_transforms(pipeline, 0, key)
        image = pipeline(image=grey)["image"].astype(int)
        flipped.append(image[0, 0, 0] < image[0, 3, 0])
        shifted.append(image.min() != 100)
    assert len(set(flipped)) == len(set(shifted)) == 2
    assert abs(np.corrcoef(flipped, shifted)[0, 1]) < 0.25


def test_samples_and_epochs_and_seeds_draw_differently() -> None:
    pipeline = A.Compose([A.RandomCrop(2, 2), PhotoMetricDistortion()])
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)

    def draw(seed: int, epoch: int, index: int) -> bytes:
        seed_transforms(pipeline, seed, SampleKey(epoch, index, False))
        return pipeline(image=image)["image"].tobytes()

    assert draw(0, 1, 2) == draw(0, 1, 2)
    assert len({draw(s, e, i) for s in range(2) for e in range(3) for i in range(10)}) > 55  # of 60
