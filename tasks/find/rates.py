"""The learning rate range test (Smith, arXiv 1506.01186) of Lightning's `Tuner`, over `--model.optimizer.lr`.

Lightning gives one rate to all parameter groups. Here each group gets its own multiple of it in every step, so that the
rates stand to each other as `model.parameter_rules` say, and a rate of the curve is the number that is written behind
`--model.optimizer.lr`. The schedule of the recipe is left out.
"""

import csv
import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from lightning.pytorch.tuner import Tuner
from matplotlib.figure import Figure
from torch import nn
from torch.optim import Optimizer

from tasks.base import VisionTask
from tasks.built import Built
from tasks.errors import TaskError
from tasks.find.search import search_trainer
from tasks.losses import sum_losses
from tasks.run.length import images_per_step
from tasks.schedules import Constant, RunLength

SMOOTHING = 0.98
"""Share of the running mean of losses that stays in each step, as in Lightning."""
UNSETTLED = 10
"""First points, of which none is suggested, as in Lightning: their means are of few losses."""


@dataclass(frozen=True)
class Curve:
    """Losses over learning rates, one point a step.

    Attributes:
        rates: Learning rates, rising exponentially.
        losses: Loss of each step; not finite where training has diverged.
    """

    rates: list[float]
    losses: list[float]

    @cached_property
    def means(self) -> list[float]:
        """Running means of the loss."""
        weights = 1 - SMOOTHING ** np.arange(1, len(self.losses) + 1)
        sums = accumulate(self.losses, lambda before, loss: SMOOTHING * before + (1 - SMOOTHING) * loss, initial=0.0)
        return list(np.array(list(sums)[1:]) / weights)

    @cached_property
    def steepest(self) -> int | None:
        """Number of the point where the mean falls fastest over the logarithm of the rate; none where it never falls.

        Lightning's own suggestion takes the slope over the rate itself, which noise of the smallest rates decides: a
        step from 1e-6 to 2e-6 counts a thousand times as much as one from 1e-3 to 2e-3.
        """
        usable = [number for number in range(UNSETTLED, len(self.rates) - 1) if math.isfinite(self.means[number])]
        if len(usable) < 2:
            return None
        logarithms = np.log([self.rates[number] for number in usable])
        slopes = np.gradient([self.means[number] for number in usable], logarithms)
        return usable[int(slopes.argmin())] if slopes.min() < 0 else None

    def write(self, file: Path) -> Path:
        """Writes the curve as a table, and beside it as a picture.

        Returns:
            The picture.
        """
        with file.open("w", newline="") as lines:
            table = csv.writer(lines)
            table.writerow(("lr", "loss", "mean"))
            table.writerows(zip(self.rates, self.losses, self.means, strict=True))
        figure = Figure(figsize=(5, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.semilogx(self.rates, self.means)
        axes.set(xlabel="--model.optimizer.lr", ylabel="loss, running mean")
        if self.steepest is not None:
            axes.plot(self.rates[self.steepest], self.means[self.steepest], "o")
        picture = file.with_suffix(".png")
        figure.savefig(picture, dpi=150)
        return picture


class Recorder:
    """Stands in for the schedule of a task: steps are taken with each group's multiple of the finder's rate, and noted.

    What Lightning (2.6.6) notes itself is no mean: it divides the sum of n losses by the weights of n + 1, so that the
    first one counts half, and it takes losses divided by the batches of a step.

    Args:
        task: The task that is trained; the test ends at its first loss that is not finite.

    Attributes:
        points: Rate and loss by the number of the step. An optimiser that calls the step of its base class asks twice.
    """

    def __init__(self, task: VisionTask) -> None:
        self.task = task
        self.points: dict[int, tuple[float, float]] = {}

    def __call__(self, optimizer: Optimizer, length: RunLength) -> Constant:
        """Watches an optimiser whose groups have the rates that the rules give them."""
        rate = option_rate(self.task)
        self.multiples = [float(group["lr"]) / rate for group in optimizer.param_groups]
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)
        return Constant(optimizer, length)

    @property
    def _rates(self) -> list[float]:
        return list(self.task.lr_schedulers().get_last_lr())  # Lightning's, by now: one rate for all groups

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        for group, rate, multiple in zip(optimizer.param_groups, self._rates, self.multiples, strict=True):
            group["lr"] = rate * multiple

    def _after_step(self, *_: Any) -> None:
        loss = float(sum_losses(self.task.loss_parts))
        self.points[self.task.global_step] = self._rates[0], loss
        if not math.isfinite(loss):
            self.task.trainer.should_stop = True


def range_test(built: Built, steps: int, least: float, most: float) -> Curve:
    """Trains with a learning rate that rises from step to step; the weights are put back.

    Args:
        built: What the recipe's command has built.
        steps: Optimiser steps; fewer are taken where the loss rises above four times its least.
        least: The first rate.
        most: The last rate.

    Raises:
        TaskError: The recipe's rate is 0: there is nothing that the rates of groups are multiples of.
    """
    task, before = built.task, built.task.options
    if option_rate(task) == 0:
        raise TaskError("--model.optimizer.lr is 0, expected more: rates of parameter groups are multiples of it")
    recorder = Recorder(task)
    with TemporaryDirectory() as folder:
        task.options = replace(before, lr_schedule=recorder)
        try:
            Tuner(search_trainer(built, folder, steps)).lr_find(
                task, datamodule=built.data, min_lr=least, max_lr=most, num_training=steps, update_attr=False
            )
        finally:
            task.options = before
    rates, losses = zip(*recorder.points.values(), strict=True)
    return Curve(list(rates), list(losses))


def option_rate(task: VisionTask) -> float:
    """What `--model.optimizer.lr` is, or the optimiser's own default."""
    return float(task.options.optimizer([nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"])


def report(curve: Curve, built: Built) -> str:
    """The suggestion as an option, with what belongs to it.

    Raises:
        TaskError: Nothing can be suggested.
    """
    place = curve.steepest
    if place is None:
        raise TaskError(
            f"no rate can be suggested: in {len(curve.rates)} steps, up to a rate of {curve.rates[-1]:.2g}, the loss "
            f"falls nowhere behind step {UNSETTLED}; give a larger --data.batch_size, another --least or --most, or "
            "more --steps"
        )
    rate, recipe = curve.rates[place], option_rate(built.task)
    lines = [
        f"--model.optimizer.lr {rate:.2g}",
        f"the loss falls fastest there, at a loss of {curve.means[place]:.3g} (running mean); "
        f"the recipe has {recipe:.2g}",
        rate_holds_for(built, images_per_step(built.trainer)),
    ]
    return "\n".join(lines)


def rate_holds_for(built: Built, images: int) -> str:
    """For how many images of a step a rate is.

    Args:
        built: What the recipe's command has built.
        images: Images of a step of the search.
    """
    base = built.task.options.parameter_rules.base_batch_size
    if base is None:
        return f"for steps of {images} images: the recipe has no model.parameter_rules.base_batch_size, which scales it"
    return (
        f"as the rate for {base} images (model.parameter_rules.base_batch_size): steps of {images} images, as here, "
        f"have {images / base:.3g} of it"
    )
