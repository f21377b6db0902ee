"""What the command line of a task builds of a recipe or a run, before it trains: task, data module and trainer."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from tasks import detect, segment
from tasks.errors import TaskError
from tasks.run.resume import SAVED_CONFIG

MAINS = {"detector": detect.main, "segmentor": segment.main}
"""Command lines by what their models have."""
ONE_PROCESS = ("--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto")


@dataclass(frozen=True)
class Built:
    """What a command has built.

    Attributes:
        task: The task.
        data: The data module; it has read the classes, and no image.
        trainer: The trainer with the options of the command.
    """

    task: Any
    data: Any
    trainer: Trainer


_built: list[Built] = []


class EndWhenBuilt(Callback):
    """Keeps what a command has built, and ends the command before any image is read."""

    reads_no_data = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ends it."""
        _built.append(Built(pl_module, trainer.datamodule, trainer))
        raise SystemExit(0)


def read_source(source: Path) -> tuple[Path, dict[str, Any], str]:
    """The configuration of a recipe or a run.

    Args:
        source: Recipe or run folder.

    Returns:
        Its file, its content, and what its model has: a `detector` or a `segmentor`.

    Raises:
        TaskError: There is no such recipe or run.
    """
    config = source / SAVED_CONFIG if source.is_dir() else source
    if not config.is_file():
        raise TaskError(f"there is no {config}; give a recipe, or the folder of a run, such as runs/detect/NAME")
    try:
        content = yaml.safe_load(config.read_text())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise TaskError(f"{config} is no yaml ({' '.join(str(error).split())}); give a recipe") from error
    model = content.get("model") if isinstance(content, dict) else None
    kind = next((kind for kind in MAINS if isinstance(model, dict) and kind in model), None)
    if kind is None:
        raise TaskError(f"{config} is no recipe: its model has neither {' nor '.join(MAINS)}")
    return config, content, kind


def behind_recipe(more: Sequence[str]) -> list[str]:
    """The options behind a recipe that stands alone; `--config RECIPE` says the same.

    Args:
        more: Arguments that are left when the recipe is taken out, so that `--config` has lost its file.
    """
    following = [*more[1:], "--"]
    return [word for word, after in zip(more, following, strict=False) if word != "--config" or after[:1] != "-"]


def build(kind: str, arguments: Sequence[str]) -> Built:
    """What a command builds, in one process; it touches no run folder.

    Args:
        kind: What the model has: a `detector` or a `segmentor`.
        arguments: Arguments of the command.

    Raises:
        SystemExit: The command line has refused an option, in its own words.
    """
    _built.clear()
    callback = f"--trainer.callbacks+={__name__}.{EndWhenBuilt.__name__}"
    _run(kind, [*arguments, *ONE_PROCESS, "--trainer.fast_dev_run=1", callback])
    return _built.pop()


def shown_config(kind: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The whole configuration of a command, as its `--print_config` shows it.

    Args:
        kind: What the model has: a `detector` or a `segmentor`.
        arguments: Arguments of the command.

    Raises:
        SystemExit: The command line has refused an option, in its own words.
    """
    with redirect_stdout(io.StringIO()) as printed:
        _run(kind, [*arguments, "--print_config"])
    shown: dict[str, Any] = yaml.safe_load(printed.getvalue())
    return shown


def _run(kind: str, arguments: list[str]) -> None:
    try:
        MAINS[kind](arguments)
    except SystemExit as end:
        if end.code:
            raise
