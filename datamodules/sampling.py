"""Which sample is drawn when, on which process: the only place where order, epoch and padding are decided.

A sampler hands `SampleKey`s to the workers, so that a dataset is a pure function of (seed, key): the same samples come
from 0, 1 or 2 workers, from workers that persist over epochs, and after a resume in the middle of an epoch.
"""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

import albumentations as A
import numpy as np
import torch
from torch.utils.data import DistributedSampler, SequentialSampler


class SampleKey(NamedTuple):
    """What a dataset is indexed with.

    Attributes:
        epoch: Epoch that the sample is drawn in, counted from 0.
        index: Position in the data set.
        repeated: True for a sample that only fills up the last step of a distributed run. Metrics leave it out.
    """

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index
    repeated: bool


class KeySampler(DistributedSampler[int], SequentialSampler):
    """Deals the data set to the processes.

    It derives from DistributedSampler so that Lightning does not wrap it in another one, and from SequentialSampler so
    that Lightning does not exchange it for one of plain numbers under `overfit_batches`.

    Args:
        size: Number of samples in the data set.
        shuffle: Draw a new order in every epoch.
        seed: Start of the random numbers behind the order.
        rank: This process, 0..world_size-1.
        world_size: Number of processes. All get the same number of samples; the last ones are repeated if need be.
    """

    def __init__(self, size: int, shuffle: bool, seed: int, rank: int = 0, world_size: int = 1) -> None:
        # Only the length of the data set is used.
        DistributedSampler.__init__(self, range(size), world_size, rank, shuffle, seed)  # type: ignore[arg-type]
        self.size = size

    def __iter__(self) -> Iterator[SampleKey]:  # type: ignore[override]
        """Yields this process's keys of the current epoch."""
        order, _ = epoch_order(self.size, self.shuffle, self.seed, self.epoch)
        for position in range(self.rank, self.total_size, self.num_replicas):
            yield SampleKey(self.epoch, order[position % self.size], repeated=position >= self.size)

    def __len__(self) -> int:
        """Number of keys of this process, repeated ones included."""
        return self.num_samples


def epoch_order(size: int, shuffle: bool, seed: int, epoch: int) -> tuple[list[int], torch.Generator]:
    """The data set in the order of an epoch, and the random numbers behind it, for whatever is drawn next."""
    generator = torch.Generator().manual_seed(stable_hash(seed, epoch))
    return torch.randperm(size, generator=generator).tolist() if shuffle else list(range(size)), generator


def group_steps(order: list[int], groups: Sequence[int], step_size: int, generator: torch.Generator) -> list[int]:
    """Rearranges samples so that the samples of a step, over all processes, are of one group.

    Args:
        order: Samples in random order.
        groups: Group of each sample.
        step_size: Samples of one step.
        generator: Draws the order of the steps.

    Returns:
        The same samples: full steps in random order, then what is left of the groups.
    """
    members: dict[int, list[int]] = {}
    for index in order:
        members.setdefault(groups[index], []).append(index)
    steps, rest = [], []
    for indices in members.values():
        full = len(indices) // step_size * step_size
        steps += [indices[start : start + step_size] for start in range(0, full, step_size)]
        rest += indices[full:]
    drawn = torch.randperm(len(steps), generator=generator).tolist()
    return [index for step in drawn for index in steps[step]] + rest


def stable_hash(*parts: int) -> int:
    """Hashes integers to 0..2**32-1, equal in every process and on every machine."""
    return crc32("/".join(map(str, parts)).encode())


def seed_transforms(transforms: A.Compose, seed: int, key: SampleKey) -> None:
    """Makes the draws of an albumentations pipeline a function of (seed, epoch, index).

    albumentations 2.0.8 repeats its draws in every worker and every epoch. Its `set_random_seed` would give each
    transform a generator of its own with the same seed, so that a flip and a colour change with equal probability
    always came together; one generator, shared by all, keeps them independent.

    Args:
        transforms: Pipeline to seed.
        seed: The run's seed.
        key: The sample that will be drawn next.
    """
    state = stable_hash(seed, key.epoch, key.index)
    transforms.set_random_state(np.random.default_rng(state), random.Random(state))
