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
from torch.utils.data import DistributedSampler


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


class KeySampler(DistributedSampler[int]):
    """Deals the data set to the processes and remembers where an interrupted epoch stopped.

    It derives from DistributedSampler so that Lightning does not wrap it in another one.

    Args:
        size: Number of samples in the data set.
        shuffle: Draw a new order in every epoch.
        seed: Start of the random numbers behind the order.
        rank: This process, 0..world_size-1.
        world_size: Number of processes. All get the same number of samples; the last ones are repeated if need be.
        start: Samples of this process that the first epoch leaves out because an interrupted run has seen them.
        groups: Group of each sample, for batches of one group (images of one orientation need less padding).
        batch_size: Samples per process and step; groups need it.
    """

    def __init__(
        self,
        size: int,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        groups: Sequence[int] | None = None,
        batch_size: int = 1,
    ) -> None:
        super().__init__(range(size), world_size, rank, shuffle, seed)  # type: ignore[arg-type]  # only its length is used
        self.size = size
        self.start = start
        self.groups = groups
        self.step_size = batch_size * world_size

    def __iter__(self) -> Iterator[SampleKey]:  # type: ignore[override]
        """Yields this process's keys of the current epoch."""
        generator = torch.Generator().manual_seed(stable_hash(self.seed, self.epoch))
        order = torch.randperm(self.size, generator=generator).tolist() if self.shuffle else list(range(self.size))
        if self.groups is not None:
            order = group_steps(order, self.groups, self.step_size, generator)
        first, self.start = self.rank + self.start * self.num_replicas, 0
        for position in range(first, self.total_size, self.num_replicas):
            yield SampleKey(self.epoch, order[position % self.size], repeated=position >= self.size)


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
