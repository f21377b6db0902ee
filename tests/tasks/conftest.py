"""Command lines on the sample data set, in this process."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path

import pytest
import torch

from tasks import detect, segment
from tasks.run import exit_codes

ROOT = Path(__file__).parents[2]
MAINS = {"detect": detect.main, "segment": segment.main}
DATA = {"detect": "coco", "segment": "ade20k"}

Command = Callable[..., Path]


SIDE = 96
"""Pixels of an image in training, in place of the quickstart's 160: 0.36 of the work."""
SMALL_IMAGES = {
    "detect": [f"--data.pipeline.{side}={SIDE}" for side in ("height", "width")],
    "segment": [f"--data.pipeline.{side}={SIDE}" for side in ("longest", "shorter", "crop")],
}


def command_arguments(task: str, subcommand: str, shapes: Path, runs: Path, name: str) -> list[str]:
    """The quickstart, made small: images, a quarter of the width; no workers, sanity check, pictures or W&B."""
    return [
        subcommand,
        f"--config={ROOT}/configs/{task}/quickstart.yaml",
        f"--data.root={shapes / DATA[task]}",
        *SMALL_IMAGES[task],
        "--data.batch_size=4",
        "--data.num_workers=0",
        "--model.backbone.width=0.25",
        "--trainer.max_epochs=1",
        "--trainer.num_sanity_val_steps=0",
        "--trainer.log_every_n_steps=1",
        "--wandb.mode=disabled",
        "--pictures.images=0",
        f"--runs={runs}",
        f"--name={name}",
    ]


@contextmanager
def refused(line: str) -> Iterator[None]:
    """A command that ends over a mistake of its user, and with one line on stderr.

    Args:
        line: Pattern that is found in the line.
    """
    with redirect_stderr(StringIO()) as shown, pytest.raises(SystemExit) as end:
        yield
    *_, last = shown.getvalue().splitlines()
    assert end.value.code == exit_codes.MISTAKE and last.startswith("error: ") and re.search(line, last), last


@pytest.fixture
def command(shapes: Path, tmp_path: Path) -> Command:
    """Runs `python -m tasks.TASK SUBCOMMAND ...` in this process and gives the run folder."""

    def run(task: str, subcommand: str, *options: str, name: str = "test") -> Path:
        MAINS[task]([*command_arguments(task, subcommand, shapes, tmp_path / "runs", name), *options])
        return tmp_path / "runs" / task / name

    return run


@pytest.fixture(scope="session")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a finished run of a task, trained once, for tests that only read it; beside it, what it printed."""
    runs = tmp_path_factory.mktemp("trained")

    @cache
    def folder(task: str) -> Path:
        runs.joinpath(task).mkdir()
        with (runs / task / "printed.txt").open("w") as shown, redirect_stdout(shown):
            MAINS[task](command_arguments(task, "fit", shapes, runs, "test"))
        return runs / task / "test"

    return folder


@pytest.fixture
def finished(trained: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Puts a copy of a finished run of a task where `command` works, for tests that go on with it."""

    def folder(task: str) -> Path:
        return shutil.copytree(trained(task), tmp_path / "runs" / task / "test")

    return folder


@pytest.fixture
def without_initialisation(monkeypatch: pytest.MonkeyPatch) -> None:
    """MMSegmentation's reads numbers from tensors, which those without memory do not have, and takes its time."""
    monkeypatch.setattr("mmengine.model.BaseModule.init_weights", lambda module: None)


@pytest.fixture
def own_determinism() -> Iterator[None]:
    """Takes back what `--trainer.deterministic` has asked of PyTorch, which would hold for later tests."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def fails(command: Command, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with a last line on stderr and an exit code, and gives the line."""

    def run(task: str, subcommand: str, *options: str, code: int = exit_codes.MISTAKE) -> str:
        with pytest.raises(SystemExit) as stop:
            command(task, subcommand, *options)
        shown = capsys.readouterr().err
        message = shown.splitlines()[-1]
        assert stop.value.code == code and message.startswith("error: ") and "Traceback" not in shown, shown
        return message

    return run
