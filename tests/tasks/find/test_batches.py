"""`python -m tasks.find batch_size`: the largest batch that fits, and memory as a limit that is run into."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.find.__main__ import main
from tasks.find.memory import free_memory, is_out_of_memory, limited_memory
from tests.tasks.conftest import DATA, ROOT, SMALL_IMAGES

TRIALS = {
    ("power", 2): ("--data.batch_size 4", "4 images fit, 8 do not"),
    ("power", 12): ("--data.batch_size 3", "3 images fit, 6 do not"),
    ("binsearch", 2): ("--data.batch_size 4", "5 images fit, 6 do not"),  # 5 % less than 5
}


@pytest.mark.parametrize(("mode", "first"), TRIALS)
def test_largest_batch(mode: str, first: int, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(
        [
            "batch_size",
            str(ROOT / "configs" / "segment" / "quickstart.yaml"),
            f"--mode={mode}",
            f"--first={first}",
            "--steps=1",
            f"--data.root={shapes / DATA['segment']}",
            *SMALL_IMAGES["segment"],
            "--data.num_workers=0",
            "--model.backbone=tests.tasks.finder_parts.FivePlaces",
            "--model.backbone.width=0.25",
            f"--runs={tmp_path}",
        ]
    )
    option, fits, change = capsys.readouterr().out.splitlines()
    assert (option, fits) == TRIALS[mode, first] and not list(tmp_path.iterdir())
    assert change == (
        "the recipe has a batch of 8: its learning rate is scaled to the batch "
        "(model.parameter_rules.base_batch_size 8); lengths in steps (--trainer.max_steps, warm-up) stay those for it"
    )


def test_all_images_fit(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = [f"--data.root={shapes / DATA['detect']}", *SMALL_IMAGES["detect"], "--data.num_workers=0"]
    own = ["--model.backbone.width=0.25", "--model.parameter_rules.base_batch_size=null", "--data.batch_size=4"]
    recipe = str(ROOT / "configs" / "detect" / "quickstart.yaml")
    main(["batch_size", recipe, "--first=3", "--steps=1", *small, *own])
    option, fits, change = capsys.readouterr().out.splitlines()
    assert option == "--data.batch_size 12" and fits == "12 images fit, more were not tried (--most, or all images)"
    assert "in proportion its learning rate is --model.optimizer.lr 0.006;" in change


def test_a_limit_ends_a_trial_and_not_the_process(shapes: Path, tmp_path: Path) -> None:
    recipe = str(ROOT / "configs" / "detect" / "quickstart.yaml")
    root = f"--data.root={shapes / DATA['detect']}"
    large = [root, "--data.pipeline.height=256", "--data.pipeline.width=256", "--data.num_workers=2"]
    ended = subprocess.run(
        [sys.executable, "-m", "tasks.find", "batch_size", recipe, "--memory=0.8", "--steps=1", *large],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = re.fullmatch(r"--data.batch_size (\d+)\n(\d+) images fit, (\d+) do not\n.*\n", ended.stdout)
    batch, fits, fails = map(int, found.groups())
    assert batch == fits in (2, 4) and fails == 2 * fits
    assert "trials may take 0.80 GB" in ended.stderr and not list(tmp_path.iterdir())


def test_memory_is_a_limit() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with limited_memory(300 * 10**6):
        held = torch.zeros(100 * 10**6, dtype=torch.uint8)
        with pytest.raises(RuntimeError) as of_torch:
            torch.zeros(250 * 10**6, dtype=torch.uint8)
        with pytest.raises(MemoryError) as of_numpy:
            np.zeros(250 * 10**6, dtype=np.uint8)
    assert is_out_of_memory(of_torch.value) and is_out_of_memory(of_numpy.value)
    assert is_out_of_memory(RuntimeError("could not create a primitive"))  # oneDNN, in a backward pass
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert (
        resource.getrlimit(resource.RLIMIT_DATA) == before and len(held) + len(torch.zeros(250 * 10**6)) == 350 * 10**6
    )
    assert 10**8 < free_memory() < 10**13
