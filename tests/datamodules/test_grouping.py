"""Steps of one orientation."""

from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules import COCO
from datamodules.sampling import KeySampler


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_full_step_is_of_one_group(world_size: int) -> None:
    groups = [index % 3 == 0 for index in range(100)]
    batch_size = 4
    samplers = [
        KeySampler(100, True, 0, rank, world_size, groups=groups, batch_size=batch_size) for rank in range(world_size)
    ]
    keys = [list(sampler) for sampler in samplers]
    seen = sorted(key.index for of_rank in keys for key in of_rank if not key.repeated)
    assert seen == list(range(100))
    mixed = 0
    for start in range(0, len(keys[0]) - batch_size, batch_size):
        step = {groups[key.index] for of_rank in keys for key in of_rank[start : start + batch_size]}
        mixed += len(step) > 1
    assert mixed <= 2  # what is left of the groups
    again = [key.index for key in samplers[0]]
    samplers[0].set_epoch(1)
    assert again == [key.index for key in keys[0]] != [key.index for key in samplers[0]]


def test_a_resumed_epoch_goes_on_in_the_same_order() -> None:
    groups = [index % 2 for index in range(40)]
    whole = list(KeySampler(40, True, 3, groups=groups, batch_size=4))
    rest = list(KeySampler(40, True, 3, start=12, groups=groups, batch_size=4))
    assert rest == whole[12:]


def test_real_photographs_need_less_padding(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("coco-free")

    def padded_share(group: bool) -> float:
        module = COCO(root, batch_size=4, num_workers=0, group_by_orientation=group)
        sizes = module._training.sizes
        loader = module.train_dataloader()
        keys = list(loader.sampler)
        used = full = 0
        for start in range(0, len(keys) - 3, 4):
            batch = [sizes[key.index] * (800 / sizes[key.index].min()) for key in keys[start : start + 4]]
            used += sum(height * width for height, width in batch)
            full += 4 * max(height for height, _ in batch) * max(width for _, width in batch)
        return 1 - used / full

    assert padded_share(True) < 0.75 * padded_share(False)
