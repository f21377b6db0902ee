"""Steps of one orientation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datamodules import COCO
from datamodules.epoch_plan import EpochPlan, StepLayout


def steps(layout: StepLayout, groups: list[int], epoch: int) -> list[list[list[int]]]:
    """Images of each process in each step of an ordinary epoch."""
    plan = EpochPlan(layout, groups, epoch, np.zeros(layout.size, dtype=bool), layout.full_steps)
    return [[plan.batch(step, rank) for rank in range(layout.world_size)] for step in range(len(plan))]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_full_step_is_of_one_group(world_size: int) -> None:
    groups = [int(index % 3 == 0) for index in range(100)]
    layout = StepLayout(100, 4, world_size, grouped=True)
    epoch = steps(layout, groups, 0)
    seen = [index for step in epoch for batch in step for index in batch]
    assert len(seen) == len(set(seen)) == 100 // (4 * world_size) * 4 * world_size
    assert all(len(batch) == 4 for step in epoch for batch in step)
    mixed = [len({groups[index] for batch in step for index in batch}) > 1 for step in epoch]
    assert sum(mixed) <= 2 and not any(mixed[:-2])  # what is left of the groups
    assert epoch == steps(layout, groups, 0) != steps(layout, groups, 1)


def test_real_photographs_need_less_padding(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("coco-free")

    def padded_share(group: bool) -> float:
        module = COCO(root, batch_size=4, num_workers=0, group_by_orientation=group)
        sizes = module._training.sizes
        used = full = 0
        for keys in module.train_dataloader().batch_sampler:  # type: ignore[union-attr]
            batch = [sizes[key.index] * (800 / sizes[key.index].min()) for key in keys]
            used += sum(height * width for height, width in batch)
            full += 4 * max(height for height, _ in batch) * max(width for _, width in batch)
        return 1 - used / full

    assert padded_share(True) < 0.75 * padded_share(False)
