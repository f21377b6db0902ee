"""Every image of an interrupted epoch is seen exactly once, however often it is interrupted and whatever changes."""

import io
import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.epoch_plan import EpochPlan, StepLayout, step_sizes
from datamodules.epoch_progress import EpochProgress

Steps = list[list[list[int]]]
"""Images of each process in each step."""


def groups_of(layout: StepLayout) -> list[int] | None:
    return [index * index % 3 for index in range(layout.size)] if layout.grouped else None


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint stores it: as data, never as code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Run:
    """A process of training as the trainer sees it: counts steps, and is interrupted."""

    def __init__(self, layout: StepLayout, state: dict[str, Any] | None = None, limit: int | None = None) -> None:
        self.epoch, self.counted = (state["epoch"] if state else 0), 0
        self.layout, self.steps = layout, min(layout.full_steps, limit or layout.full_steps)
        self.progress = EpochProgress(lambda: self.epoch, lambda: self.counted)
        self.progress.load_state_dict(state or {})
        self.progress.lay_out(layout, groups_of(layout), self.steps)
        self.counted = self.steps - self.progress.remaining()
        assert 0 <= self.counted <= self.steps

    def advance(self, steps: int | None = None) -> Steps:
        """Does some steps, or all to the end of the epoch."""
        plan, done = self.progress.begin(self.epoch)
        assert len(plan) - done == self.progress.remaining() == self.steps - self.counted
        stop = len(plan) if steps is None else min(done + steps, len(plan))
        seen = [[plan.batch(step, rank) for rank in range(self.layout.world_size)] for step in range(done, stop)]
        self.counted += stop - done
        return seen

    def state(self) -> dict[str, Any]:
        return through_a_file(self.progress.state_dict())


def images(steps: Steps) -> list[int]:
    return [index for step in steps for batch in step for index in batch]


def whole(layout: StepLayout, epoch: int = 0) -> Steps:
    run = Run(layout)
    run.epoch = epoch
    return run.advance()


LAYOUTS = list(itertools.product((1, 2, 3, 4, 7), (1, 2, 3), (False, True)))
"""Batch size, number of processes, grouping."""


def check_chain(size: int, layouts: list[StepLayout], interruptions: list[int]) -> None:
    """Goes through an epoch that is interrupted after so many steps of each layout but the last."""
    state, seen, runs = None, [], []
    for layout, steps in itertools.zip_longest(layouts, interruptions):
        run = Run(layout, state)
        part = run.advance(steps)
        assert all(0 < len(batch) <= layout.batch_size for step in part for batch in step)
        assert all(len(step) == layout.world_size for step in part), "every process takes part in every step"
        seen, state = seen + images(part), run.progress.state_dict()
        runs.append((run, part))
    run, part = runs[-1]
    assert len(seen) == len(set(seen)), "no image twice"
    assert run.progress.remaining() == 0 and state["finished"] and run.counted == run.steps
    assert size - len(seen) < max(layout.step_size for layout in layouts), "less than a step is left out, as ever"
    sizes = [len(batch) for step in part[-2:] for batch in step]
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert min(sizes, default=2) >= min(2, run.layout.batch_size)
    run.epoch, run.counted = run.epoch + 1, 0
    assert run.advance() == whole(run.layout, run.epoch), "the next epoch is an ordinary one"


@pytest.mark.parametrize("seed", range(8))
def test_every_image_once_in_chains_of_two_interruptions(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(30):
        size = draw.randint(1, 60)
        chain = [StepLayout(size, *draw.choice(LAYOUTS), seed=seed) for _ in range(3)]
        if min(layout.full_steps for layout in chain) > 0:
            check_chain(size, chain, [draw.randint(0, layout.full_steps) for layout in chain[:2]])


@pytest.mark.slow
@pytest.mark.parametrize("old", LAYOUTS)
def test_every_image_once_for_every_change(old: tuple[int, int, bool]) -> None:
    for size, new in itertools.product((13, 24), LAYOUTS):
        first, second = StepLayout(size, *old), StepLayout(size, *new)
        for steps in range(first.full_steps + 1 if first.full_steps and second.full_steps else 0):
            check_chain(size, [first, second], [steps])
            check_chain(size, [first, second, first], [steps, 1])


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(("batch_size", "world_size"), [(1, 1), (2, 1), (2, 2), (3, 2)])
def test_equal_settings_give_the_rest_of_the_uninterrupted_epoch(
    batch_size: int, world_size: int, grouped: bool
) -> None:
    layout = StepLayout(25, batch_size, world_size, grouped, seed=3)
    expected = whole(layout)
    for first, second in itertools.product(range(layout.full_steps + 1), range(3)):
        state, seen = None, []
        for steps in (first, second, None):
            run = Run(layout, state)
            seen += run.advance(steps)
            state = run.state()
        assert seen == expected


def test_equal_settings_after_a_change_give_the_rest_of_the_changed_epoch() -> None:
    start = Run(StepLayout(50, 3, 1))
    start.advance(5)
    changed = StepLayout(50, 2, 2, grouped=True)
    expected = Run(changed, start.state()).advance()
    for steps in range(len(expected) + 1):
        run = Run(changed, start.state())
        seen = run.advance(steps)
        again = Run(changed, run.state())
        assert again.counted == run.counted
        assert seen + again.advance() == expected


def test_the_remaining_images_keep_the_order_of_the_epoch() -> None:
    layout = StepLayout(20, 2, 1, seed=5)
    order = images(whole(layout))
    run = Run(layout)
    run.advance(3)
    assert images(Run(StepLayout(20, 7, 1, seed=5), run.state()).advance()) == order[6:]


def test_groups_stay_together_in_the_remaining_steps() -> None:
    run = Run(StepLayout(60, 2, 1))
    run.advance(4)
    layout = StepLayout(60, 4, 1, grouped=True)
    rest, groups = Run(layout, run.state()).advance(), groups_of(layout)
    assert groups is not None and len(rest) == 13
    mixed = [len({groups[index] for index in images([step])}) > 1 for step in rest]
    assert sum(mixed) <= 2 and not any(mixed[:-3])


def test_record_of_one_process_describes_all() -> None:
    layout = StepLayout(23, 2, 3)
    run = Run(layout)
    seen = images(run.advance(2))
    bits = np.unpackbits(run.state()["seen"].numpy(), count=23)
    assert len(seen) == 12 and sorted(seen) == np.flatnonzero(bits).tolist()
    assert run.state()["seen"].dtype == torch.uint8 and len(run.state()["seen"]) == 3


def test_an_epoch_that_is_over_stays_over() -> None:
    """Under another layout the images that no epoch has a full step for are not made up for."""
    run = Run(StepLayout(13, 4, 1))
    run.advance()
    state = run.state()
    assert Run(StepLayout(13, 1, 1), state).progress.remaining() == 0
    resumed = Run(StepLayout(13, 1, 1), state)
    assert resumed.advance() == [] and resumed.progress.continuation() is None
    resumed.epoch, resumed.counted = 1, 0
    assert resumed.advance() == whole(StepLayout(13, 1, 1), epoch=1)


def test_at_the_end_of_an_epoch_nothing_of_the_next_is_seen() -> None:
    run = Run(StepLayout(12, 2, 1))
    run.advance()
    run.epoch = 1  # the trainer counts the epoch before its callbacks save; its steps are counted from 0 only later
    state = run.state()
    assert state["epoch"] == 1 and state["steps"] == 0 and not state["finished"] and not state["seen"].any()
    assert Run(StepLayout(12, 4, 1), state).advance() == whole(StepLayout(12, 4, 1), epoch=1)


def test_saved_again_before_the_first_step() -> None:
    run = Run(StepLayout(12, 2, 1))
    run.advance(3)
    state = run.state()
    resumed = Run(StepLayout(12, 4, 1), state)
    assert resumed.state().keys() == state.keys()
    assert all(str(value) == str(state[name]) for name, value in resumed.state().items())
    resumed.progress.begin(0)
    assert Run(StepLayout(12, 4, 1), resumed.state()).advance() == Run(StepLayout(12, 4, 1), state).advance()


@pytest.mark.parametrize(("batch_size", "limit", "expected"), [(2, 4, 8), (4, 1, 6), (4, 2, 8), (3, 3, 9), (1, 4, 6)])
def test_limit_counts_the_images_of_the_epoch(batch_size: int, limit: int, expected: int) -> None:
    """`limit_train_batches`: 6 images are seen, the epoch ends after limit x batch_size of them."""
    run = Run(StepLayout(24, 2, 1), limit=5)
    seen = images(run.advance(3))
    resumed = Run(StepLayout(24, batch_size, 1), run.state(), limit)
    seen += images(resumed.advance())
    assert len(seen) == len(set(seen)) == expected
    assert resumed.counted == resumed.steps == limit


def test_without_a_record_the_trainer_counts() -> None:
    layout = StepLayout(12, 2, 1)
    run = Run(layout)
    run.counted = 4  # restored by the trainer from a checkpoint of before
    assert run.progress.remaining() == 2 and run.advance() == whole(layout)[4:]


def test_continuation_is_said_in_one_sentence() -> None:
    run = Run(StepLayout(12, 2, 1))
    run.epoch = 3
    run.advance(3)
    state = run.state()
    assert Run(StepLayout(12, 2, 1), state).progress.continuation() is None
    assert Run(StepLayout(12, 4, 1), state).progress.continuation() == (
        "epoch 3 was interrupted after 6 of 12 images with 2 x 1 (images x processes per step); "
        "the other 6 follow with 4 x 1"
    )
    grouped = Run(StepLayout(12, 2, 2, grouped=True), state).progress.continuation()
    assert grouped is not None and grouped.endswith(
        "the other 4 follow with 2 x 2 grouped by orientation, 2 are left out because they fill no step"
    )
    assert Run(StepLayout(20, 2, 1), state).progress.continuation() == (
        "epoch 3 was interrupted in a training split of 12 images and starts over: it has 20 now"
    )
    other_data = Run(StepLayout(20, 2, 1), state)
    assert other_data.counted == 0 and other_data.advance() == whole(StepLayout(20, 2, 1), epoch=3)


@pytest.mark.parametrize("batch_size", range(1, 8))
@pytest.mark.parametrize("world_size", range(1, 5))
def test_sizes_of_steps(batch_size: int, world_size: int) -> None:
    layout = StepLayout(1, batch_size, world_size)
    for count in range(80):
        sizes = step_sizes(count, layout)
        assert 0 <= count - sum(sizes) < layout.step_size
        assert set(sizes[:-2]) <= {layout.step_size} and all(size <= layout.step_size for size in sizes)
        dealt = [len(range(rank, size, world_size)) for size in sizes[-2:] for rank in range(world_size)]
        assert not dealt or (max(dealt) - min(dealt) <= 1 and min(dealt) >= min(2, batch_size))
        if batch_size >= 4 and count >= layout.step_size:
            assert sum(sizes) == count, "from 4 images on the last two steps always have room for all"


def test_more_images_than_an_epoch_has_steps_for() -> None:
    """Hardly begun with small steps, then steps so large that an ordinary epoch leaves more out than was seen."""
    seen = np.zeros(15, dtype=bool)
    seen[:2] = True
    plan = EpochPlan(StepLayout(15, 8, 1), None, 0, seen, steps=1)
    assert len(plan) == 1 and len(plan.batch(0, 0)) == 8 and plan.left_out == 5
