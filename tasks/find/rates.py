"""The learning rate range test (Smith, arXiv 1506.01186) of Lightning's `Tuner`, over `--model.optimizer.lr`.

Lightning gives one rate to all parameter groups. Here each group gets its own multiple of it in every step, so that the
rates stand to each other as `model.parameter_rules` say, and a rate of the curve is the number that is written behind
`--model.optimizer.lr`. The schedule of the recipe is left out.
"""

import csv
import math
from dataclasses import dataclass, replace
from functools import partial
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
from tasks.run.length import images_per_step
from tasks.schedules import Constant, RunLength

SMOOTHING = 0.98
"""Share of the mean that stays in each step of Lightning's running mean of losses."""
UNSETTLED = 10
"""First points, of which none is suggested, as in Lightning: their means are of few losses."""


@dataclass(frozen=True)
class Curve:
    """Losses over learning rates, one point a step.

    Attributes:
        rates: Learning rates, rising exponentially.
        losses: Running means of the loss; not finite from where training has diverged.
    """

    rates: list[float]
    losses: list[float]

    def steepest(self) -> int | None:
        """Number of the point where the loss falls fastest over the logarithm of the rate; none where it never falls.

        Lightning's own suggestion takes the slope over the rate itself, which noise of the smallest rates decides: a
        step from 1e-6 to 2e-6 counts a thousand times as much as one from 1e-3 to 2e-3.
        """
        usable = [number for number in range(UNSETTLED, len(self.rates) - 1) if math.isfinite(self.losses[number])]
        if len(usable) < 2:
            return None
        logarithms = np.log([self.rates[number] for number in usable])
        slopes = np.gradient([self.losses[number] for number in usable], logarithms)
        return usable[int(slopes.argmin())] if slopes.min() < 0 else None

    def write(self, file: Path) -> Path:
        """Writes the curve as a table, and beside it as a picture.

        Returns:
            The picture.
        """
        with file.open("w", newline="") as lines:
            table = csv.writer(lines)
            table.writerow(("lr", "loss"))
            table.writerows(zip(self.rates, self.losses, strict=True))
        figure = Figure(figsize=(5, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.semilogx(self.rates, self.losses)
        axes.set(xlabel="--model.optimizer.lr", ylabel="loss, running mean")
        if (place := self.steepest()) is not None:
            axes.plot(self.rates[place], self.losses[place], "o")
        picture = file.with_suffix(".png")
        figure.savefig(picture, dpi=150)
        return picture


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
    rate = option_rate(task)
    if rate == 0:
        raise TaskError("--model.optimizer.lr is 0, expected more: rates of parameter groups are multiples of it")
    with TemporaryDirectory() as folder:
        trainer = search_trainer(built, folder, steps)
        task.options = replace(before, lr_schedule=partial(keep_ratios, rate, task))
        try:
            finder = Tuner(trainer).lr_find(
                task, datamodule=built.data, min_lr=least, max_lr=most, num_training=steps, update_attr=False
            )
        finally:
            task.options = before
    return settled_curve(finder, trainer.accumulate_grad_batches)


def option_rate(task: VisionTask) -> float:
    """What `--model.optimizer.lr` is, or the optimiser's own default."""
    return float(task.options.optimizer([nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"])


def keep_ratios(rate: float, task: VisionTask, optimizer: Optimizer, length: RunLength) -> Constant:
    """Stands in for the schedule of a task: each step is taken with the group's own multiple of the finder's rate.

    Args:
        rate: The optimiser's rate as an option, of which the groups have multiples.
        task: The task that is trained; the test ends at the first loss that is not finite.
        optimizer: Holds the rate that the rules have given to each group.
        length: Length of the run.
    """
    multiples = [float(group["lr"]) / rate for group in optimizer.param_groups]

    def multiply(optimizer: Optimizer, *_: Any) -> None:
        for group, multiple in zip(optimizer.param_groups, multiples, strict=True):
            group["lr"] *= multiple  # Lightning sets all of them anew after the step

    def stop_if_lost(*_: Any) -> None:
        if not all(bool(part.isfinite().all()) for part in task.loss_parts.values()):
            task.trainer.should_stop = True

    optimizer.register_step_pre_hook(multiply)
    optimizer.register_step_post_hook(stop_if_lost)
    return Constant(optimizer, length)


def settled_curve(finder: Any, accumulated: int) -> Curve:
    """The curve of a finder, with its means put right.

    Lightning (2.6.6) divides a running mean of n losses by the weights of n + 1, which halves the first one and lets
    the curve rise where the loss does not; and it takes a loss divided by the batches of a step.

    Args:
        finder: What `Tuner.lr_find` gives.
        accumulated: Batches of a step.
    """
    rates, losses = finder.results["lr"], finder.results["loss"]
    weights = 1 - SMOOTHING ** np.arange(1, len(losses) + 2)
    return Curve(list(rates), list(accumulated * np.array(losses) * weights[1:] / weights[:-1]))


def report(curve: Curve, built: Built) -> str:
    """The suggestion as an option, with what belongs to it.

    Raises:
        TaskError: Nothing can be suggested.
    """
    place = curve.steepest()
    if place is None:
        raise TaskError(
            f"no rate can be suggested: in {len(curve.rates)} steps, up to a rate of {curve.rates[-1]:.2g}, the loss "
            f"falls nowhere behind step {UNSETTLED}; give a larger --data.batch_size, another --least or --most, or "
            "more --steps"
        )
    rate, recipe = curve.rates[place], option_rate(built.task)
    lines = [
        f"--model.optimizer.lr {rate:.2g}",
        f"the loss falls fastest there, at {curve.losses[place]:.3g} (running mean); the recipe has {recipe:.2g}",
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
