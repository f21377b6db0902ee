"""That optimiser and schedule can be built, tried before a run begins instead of at its first step."""

import inspect
from functools import partial

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import nn

from tasks.errors import TaskError
from tasks.schedules import RunLength, ScheduleBuilder


def check_optimizer(optimizer: OptimizerCallable, schedule: ScheduleBuilder) -> None:
    """Builds both over two groups of one number each, as a task has several groups.

    Args:
        optimizer: Makes an optimiser from parameter groups.
        schedule: Makes a schedule from an optimiser and the length of a run.

    Raises:
        TaskError: The optimiser refuses its options, or the schedule does.
    """
    for name, value in optimizer.keywords.items() if isinstance(optimizer, partial) else ():
        usual = _default(optimizer, name)
        if value is None and isinstance(usual, float | tuple):
            shown = usual if isinstance(usual, float) else list(usual)
            raise TaskError(f"--model.optimizer.{name} is null, expected a value such as {shown}")
    groups = [{"params": [nn.Parameter(torch.zeros(1, device="cpu"))]} for _ in range(2)]
    try:
        built = optimizer(groups)
    except ValueError as error:
        raise TaskError(f"--model.optimizer: {error}; see --model.optimizer.help") from error
    schedule(built, RunLength(steps=1000, steps_per_epoch=100))


def _default(optimizer: "partial[torch.optim.Optimizer]", name: str) -> object:
    """The default of an option, in the class that is built: the last argument where jsonargparse builds it."""
    build = optimizer.args[-1] if optimizer.args else optimizer.func
    option = inspect.signature(build).parameters.get(name)
    return None if option is None else option.default
