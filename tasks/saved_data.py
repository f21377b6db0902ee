"""What a checkpoint keeps of its data module, so that it predicts wherever it is copied to."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from datamodules import DataError, VisionDataModule
from datamodules.pipelines import Pipeline
from tasks.detection import DetectionOptions
from tasks.errors import TaskError
from tasks.foreign_code import foreign_class, if_yours
from tasks.run.checkpoint_options import LINKED
from tasks.segmentation import SegmentationOptions
from tasks.task_options import TaskOptions, saved_options
from tasks.weights import DATA_KEY, read_checkpoint

TASKS: dict[str, type[TaskOptions]] = {"detect": DetectionOptions, "segment": SegmentationOptions}
PARTS_OF_DATA = (VisionDataModule, Pipeline)


def saved_data(content: Mapping[str, Any], path: object) -> dict[str, Any]:
    """Class and arguments of the data module that a checkpoint was trained with.

    Args:
        content: The content of the checkpoint.
        path: The checkpoint, for messages.

    Raises:
        TaskError: It does not say them, or names foreign code among them.
    """
    saved = content.get(DATA_KEY, {"unknown": "it is of a version that did not keep it"})
    if "unknown" in saved:
        raise TaskError(
            f"{path} does not say how images are prepared for it ({saved['unknown']}); on the command line give the "
            "configuration of its run, --config RUN/config.fit.yaml, in Python the data module, such as "
            "tasks.load(checkpoint, data=datamodules.COCO('.', pipeline=datamodules.FixedSize(320, 320)))"
        )
    foreign = foreign_class(saved, PARTS_OF_DATA, "datamodules")
    if foreign is not None:
        raise TaskError(
            f"{path} names {foreign} as a part of its data module, and nothing of it has been run; expected data "
            f"modules and pipelines of datamodules. {if_yours(foreign)}"
        )
    return dict(saved)


def build_data(saved: Mapping[str, Any], path: object, class_names: list[str]) -> VisionDataModule:
    """Builds the data module of a checkpoint.

    Args:
        saved: What `saved_data` gives.
        path: The checkpoint, for messages.
        class_names: Names of the classes of the model.

    Raises:
        TaskError: Its class does not take its arguments.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(VisionDataModule, "data", fail_untyped=False)
    arguments = {**saved["init_args"], "class_names": class_names}
    try:
        config = parser.parse_object({"data": {"class_path": saved["class_path"], "init_args": arguments}})
        data: VisionDataModule = parser.instantiate_classes(config).data
    except DataError:
        raise
    except Exception as error:  # whatever a user's own class or jsonargparse raises
        raise TaskError(f"{path}: its data module {saved['class_path']} cannot be built: {reason_of(error)}") from error
    return data


def reason_of(error: Exception) -> str:
    """What a constructor says, out of what jsonargparse makes of it."""
    lines = [line.strip().removeprefix("- ") for line in str(error).splitlines()]
    told = [line for line in lines if not line.startswith(_JSONARGPARSE)]
    return told[0] if len(lines) > 1 and told else " ".join(" ".join(lines).split())[:400]


_JSONARGPARSE = ("Expected", "Problem", "Does not", "Type ", "Parser ", "Subtypes", "Errors", "Given")
"""How lines of its own begin, around what a constructor has said."""


def with_checkpoint(arguments: Sequence[str], task: str) -> list[str]:
    """The arguments of `predict` with what its checkpoint says of model and data, where no configuration says it.

    Args:
        arguments: Those of a command line, the command first.
        task: `detect` or `segment`.

    Raises:
        TaskError: The checkpoint does not say it, or there are no images to predict on.
    """
    path = _value_of("--ckpt_path", arguments)
    configured = any(word == "-c" or word.partition("=")[0] == "--config" for word in arguments)
    if arguments[:1] != ["predict"] or path is None or not Path(path).is_file() or configured:
        return [*arguments]
    if _value_of("--data.images", arguments) is None and _value_of("--data.root", arguments) is None:
        raise TaskError(f"{path} alone says nothing of images; give --data.images, such as 'photos/*.jpg'")
    content = read_checkpoint(path)
    model = {name: value for name, value in saved_options(content, path, TASKS[task]).items() if name not in LINKED}
    data = saved_data(content, path)
    return ["predict", f"--model={json.dumps(model)}", f"--data={json.dumps(data)}", *arguments[1:]]


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    """The last value of an option, written `--option value` or `--option=value`; None where it is not there."""
    values = [each.partition("=")[2] for each in arguments if each.startswith(f"{option}=")]
    values += [value for each, value in pairwise(arguments) if each == option]
    return values[-1] if values else None
