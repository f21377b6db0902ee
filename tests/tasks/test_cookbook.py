"""Every command of docs/cookbook.md is run as it stands, on a few small images and for one step."""

import re
import shlex
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tasks import sweep
from tasks.find.__main__ import main as find
from tests.tasks.conftest import MAINS, SMALL_IMAGES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cookbook.md").read_text()
COMMANDS = re.findall(r"^(?:PYTHONPATH=\S+ )?python -m .*$", PAGE, re.MULTILINE)
SMALL = [
    "--data.max_images=4",
    "--data.num_workers=0",
    "--data.batch_size=2",
    "--trainer.accumulate_grad_batches=1",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=1",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.log_every_n_steps=1",
    "--pictures.images=0",
    "--wandb.mode=disabled",
]
"""Appended to each command, but for what it is about."""


@pytest.fixture
def folder(shapes: Path, trained: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the recipes, the sample data, a finished run and the class of the page."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shapes").symlink_to(shapes)
    (tmp_path / "runs" / "detect").mkdir(parents=True)
    (tmp_path / "runs" / "detect" / "first").symlink_to(trained("detect"))
    (tmp_path / "code").mkdir()
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "code" / "my_gate.py").write_text(code)
    return tmp_path


def small(task: str, arguments: list[str]) -> list[str]:
    """Options that make a command small and leave alone what it says itself."""
    said = {argument.partition("=")[0] for argument in arguments}
    sides = [] if any(name.startswith("--data.pipeline") for name in said) else SMALL_IMAGES[task]
    width = ["--model.backbone.width=0.25"] if "--model.weights" in said else []  # as the run that they are of
    images = ["--data.max_images=12"] if "--data.batch_size" in said else []  # one batch
    return [option for option in [*SMALL, *sides, *width, *images] if option.partition("=")[0] not in said]


@pytest.mark.parametrize("command", COMMANDS)
def test_command(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, python, arguments = re.fullmatch(r"(?:PYTHONPATH=(\S+) )?(python -m tasks\.\w+) (.*)", command).groups()
    task, words = python.rpartition(".")[2], shlex.split(arguments)
    if path:
        monkeypatch.syspath_prepend(str(folder / path))
    if task == "sweep":
        sweep.main(words)
        assert "--model.backbone.attention=SqueezeExcitation" in capsys.readouterr().out
        return
    if task == "find":
        steps = ["--steps=20"] if words[0] == "lr" else ["--steps=1"]
        find([*words, *steps, *small("detect", words)])
        option = {"lr": r"--model\.optimizer\.lr \S+", "batch_size": r"--data\.batch_size \d+"}[words[0]]
        assert re.search(rf"^{option}$", capsys.readouterr().out, re.MULTILINE)
        assert (folder / "curve.csv").is_file() == ("--write" in words)
        return
    if "MLFlowLogger" in words and not find_spec("mlflow"):
        pytest.skip("the extra mlflow is not installed")
    if "TensorBoardLogger" in words and not find_spec("tensorboard"):
        pytest.skip("the extra tensorboard is not installed")
    name = words[words.index("--name") + 1]
    if name == "first":  # it stands there
        assert (folder / "runs" / "detect" / "first" / "checkpoints" / "best.ckpt").is_file()
        return
    if "gpu" in words and torch.cuda.device_count() < 2:
        with pytest.raises(SystemExit) as end:  # as far as a machine without them goes
            MAINS[task]([*words, *small(task, words)])
        assert end.value.code == 2 and "PyTorch sees no GPU here" in capsys.readouterr().err
        return
    MAINS[task]([*words, *small(task, words)])
    assert (folder / "runs" / task / name / "summary.json").is_file()
