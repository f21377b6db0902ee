"""The options of a task: what the command line offers below `model`, and what a checkpoint keeps of them."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser
from jsonargparse._util import get_import_path
from lightning.pytorch.cli import OptimizerCallable
from torch import nn

from backbones import Backbone
from tasks.errors import TaskError
from tasks.optimization import ParameterRules
from tasks.optimizer_check import check_optimizer
from tasks.schedules import ScheduleBuilder


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What every task is made from.

    Attributes:
        backbone: Features for the model.
        class_names: Names of the classes 0..K-1. The command line takes them from the data set.
        image_size: Height and width at which multiply-accumulates are counted. Linked to the data set.
        optimizer: Optimiser.
        lr_schedule: Learning rate over the steps of the run.
        parameter_rules: Weight decay and learning rate per kind of parameter.
        weights: File whose weights this run starts from, or that is evaluated: the checkpoint of another run, or
            published weights of a whole detector (torchvision's, or MMDetection's Faster, Mask and Cascade R-CNN).
            Classes are taken over by their names. To continue a run use --ckpt_path.
        channels_last: Keep weights and features in channels_last memory layout, which is faster on many devices.
        compile_backbone: Run the backbone through torch.compile; the first steps take minutes.
        headline: Score by which the best checkpoint is chosen and runs are compared: `mask_mAP`.
            Default: `mAP` or `mIoU`.
        validation_loss: Log `val/loss` and its parts `val/loss_*`, the mean loss of the validation images in evaluation
            mode, beside the scores. Every image then goes through the network a second time. Training is the same.
    """

    backbone: Backbone
    class_names: list[str]
    image_size: tuple[int, int]
    optimizer: OptimizerCallable
    lr_schedule: ScheduleBuilder
    parameter_rules: ParameterRules = ParameterRules()
    weights: Path | None = None
    channels_last: bool = False
    compile_backbone: bool = False
    headline: str | None = None
    validation_loss: bool = False

    def __post_init__(self) -> None:
        """Builds optimiser and schedule once, for what their classes refuse."""
        check_optimizer(self.optimizer, self.lr_schedule)

    def plain(self) -> dict[str, Any]:
        """Those that are data, as a checkpoint can hold them; what was built in Python is left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
            for name, value in values.items()
            if not isinstance(value, nn.Module | Path) and not callable(value)
        }


Options = TypeVar("Options", bound=TaskOptions)
OWNERS = {"detector": "tasks.detect", "segmentor": "tasks.segment"}
"""Commands by the option that only their tasks have."""


def saved_options(checkpoint: Mapping[str, Any], path: object, options: type[TaskOptions]) -> dict[str, Any]:
    """What a checkpoint keeps of the options of its task: classes by their paths with their arguments.

    Args:
        checkpoint: The content of the file.
        path: The file, for messages.
        options: The options of the task that is to be built.

    Raises:
        TaskError: It is the checkpoint of another task.
    """
    saved = {name: value for name, value in checkpoint.get("hyper_parameters", {}).items() if name[0] != "_"}
    foreign = sorted(saved.keys() - {field.name for field in fields(options)})
    if foreign:
        owner = next((command for option, command in OWNERS.items() if option in foreign), None)
        whose = f"of {owner}: python -m {owner}" if owner else "of another task"
        raise TaskError(f"{path} is the checkpoint {whose}; this one has no model option {foreign[0]!r}")
    return saved


def add_task_options(parser: ArgumentParser, options: type[TaskOptions], key: str) -> list[str]:
    """Adds the options of a task to a command line.

    Args:
        parser: The command line's parser.
        options: The options; a default that is a `partial` of a class is shown as the class with its arguments.
        key: What their names begin with.

    Returns:
        Names of the options added.
    """
    added: list[str] = parser.add_class_arguments(options, key, fail_untyped=False, sub_configs=True)
    for field in fields(options):
        if isinstance(made := field.default, partial) and inspect.isclass(made.func):
            default = {"class_path": get_import_path(made.func), "init_args": made.keywords}
            parser.set_defaults({f"{key}.{field.name}": default})
    return added


def build_options(options: type[Options], plain: Mapping[str, Any]) -> Options:
    """Builds the options of a task from what a checkpoint keeps of them."""
    parser = ArgumentParser(exit_on_error=False)
    add_task_options(parser, options, "model")
    built: Options = parser.instantiate_classes(parser.parse_object({"model": dict(plain)})).model
    return built
