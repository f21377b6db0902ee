"""Classes that can be named but do not fit their task, refused before anything is built or written."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from datamodules import COCO, LabelMasks
from tasks.callbacks import DetectionPictures, DetectionWriter, LabelMapWriter, Report, SegmentationPictures
from tasks.callbacks.pictures import Pictures
from tasks.callbacks.prediction_writer import PredictionWriter
from tasks.errors import TaskError
from tasks.schedules import Schedule

OWN = {"detect": (DetectionPictures, DetectionWriter), "segment": (SegmentationPictures, LabelMapWriter)}
"""Classes that show and write what one command predicts, and nothing else."""
BASES = (Pictures, PredictionWriter, Report, Schedule)
"""Classes of what can be named, which do nothing by themselves."""
DATA = {"detect": (COCO, "boxes (COCO)"), "segment": (LabelMasks, "label masks")}
"""Its data modules, and what they read."""


def refuse_parts(task: str, config: Any) -> None:
    """Refuses base classes, and classes that are made for the other task.

    Args:
        task: `detect` or `segment`.
        config: Configuration of a command.

    Raises:
        TaskError: With the classes that fit.
    """
    other = next(name for name in OWN if name != task)
    for option, part in _named_parts(config):
        if part in BASES:
            raise TaskError(f"{option} {part.__name__} is the base of what can be named; {option}.help lists that")
        if issubclass(part, OWN[other]):
            raise TaskError(f"{option} {part.__name__} belongs to tasks.{other}; {option}.help lists what fits here")
    data = _class(config.data.class_path)
    kind, found = DATA[other]
    if issubclass(data, kind):
        raise TaskError(
            f"--data {data.__name__} reads {found}, and tasks.{task} needs {DATA[task][1]}; for {found}: "
            f"python -m tasks.{other}"
        )


def _named_parts(config: Any) -> Iterator[tuple[str, type]]:
    for option in ("pictures", "writer", "model.lr_schedule"):
        if "class_path" in (config.get(option) or ()):
            yield f"--{option}", _class(config[option].class_path)
    for report in config.get("reports") or ():
        yield "--reports", _class(report.class_path)


def _class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
