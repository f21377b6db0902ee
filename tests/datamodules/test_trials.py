"""The data sets drawn after public reports: each has a row in `docs/reliability.md`, whose tests read it.

Most are read in the tests of what they are about. Here are those that train.
"""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tasks.running import ROOT, run

SharedData = Callable[[str], Path]

DETECT = (
    *("--data.pipeline=FixedSize", "--data.pipeline.height=64", "--data.pipeline.width=64"),
    *("--model.detector.channels=32", "--model.detector.num_convs=1"),
)
SEGMENT = ("--data.pipeline.longest=64", "--data.pipeline.shorter=64", "--data.pipeline.crop=64")
FLAGS = {
    "detect --trainer.overfit_batches=2": "",
    "detect --trainer.max_epochs=-1 --trainer.max_steps=5 --trainer.check_val_every_n_epoch=null "
    "--trainer.val_check_interval=2": "",
    "detect --trainer.enable_checkpointing=false": "",
    "detect --trainer.precision=bf16-true": "too small to change them; use bf16-mixed",
    "detect --wandb.mode=offline --wandb.project=team/proj": "",
    "detect --data.batch_size=1 --model.backbone.attention=BAM --model.backbone.attention.reduction=4": "one value",
    "detect --data.batch_size=1 --trainer.accumulate_grad_batches=3": "",
    "segment --trainer.overfit_batches=2": "",
    "segment --trainer.check_val_every_n_epoch=null --trainer.val_check_interval=2": "",
    "segment --trainer.enable_checkpointing=false": "",
}
"""Task and options, and what refuses them."""


def fit(task: str, root: Path, runs: Path, *options: str) -> tuple[int, str]:
    """The command of the trials: exit code and output."""
    common = (
        *(f"--config={ROOT}/configs/{task}/quickstart.yaml", f"--runs={runs}", f"--data.root={root}"),
        *("--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--trainer.log_every_n_steps=1"),
        *("--data.batch_size=2", "--data.val_batch_size=1", "--data.num_workers=0", "--wandb.mode=disabled"),
    )
    return run(task, ["fit", *common, *(DETECT if task == "detect" else SEGMENT), *options])


def rates(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as lines:
        return [float(row["lr-AdamW/head"]) for row in csv.DictReader(lines) if row["lr-AdamW/head"]]


def test_every_trial_is_read_by_a_test(shared_data: SharedData) -> None:
    """Its row names tests, and the file of one of them names the folder."""
    found = re.findall(r"^\| T\d+ \| `(\w+)`: .*", (ROOT / "docs" / "reliability.md").read_text(), flags=re.MULTILINE)
    assert found == sorted(path.name for path in shared_data("trials").iterdir() if path.is_dir())
    for line in (ROOT / "docs" / "reliability.md").read_text().splitlines():
        if row := re.match(r"\| T\d+ \| `(\w+)`: ", line):
            files = set(re.findall(r"`(tests/[\w/]+\.py)::", line))
            assert any(re.search(rf"\b{row[1]}\b", (ROOT / file).read_text()) for file in files), row[1]


@pytest.mark.slow
@pytest.mark.parametrize("flags", FLAGS)
def test_lightning_flags(flags: str, shared_data: SharedData, tmp_path: Path) -> None:
    task, *options = flags.split()
    folder = "lightning_flags" if task == "detect" else "lightning_flags_seg"
    code, output = fit(task, shared_data("trials") / folder, tmp_path, *options)
    assert "Traceback" not in output
    if FLAGS[flags]:
        assert code == 2 and FLAGS[flags] in output, output
    else:
        assert code == 0, output


@pytest.mark.slow
def test_a_run_continued_with_more_epochs(shared_data: SharedData, tmp_path: Path) -> None:
    root = shared_data("trials") / "resume_more_epochs_lr_zero"
    assert fit("detect", root, tmp_path, "--name=a", "--trainer.max_epochs=2")[0] == 0
    last = tmp_path / "detect" / "a" / "checkpoints" / "last.ckpt"
    code, output = fit("detect", root, tmp_path, "--name=b", "--trainer.max_epochs=4", f"--ckpt_path={last}")
    assert code == 0 and "the run is now 24 steps long instead of 12" in output, output
    found = rates(tmp_path / "detect" / "b")
    assert len(found) == 12 and found == sorted(found, reverse=True)
    assert found[0] > 1e-5 and found[-1] < found[0] / 5


@pytest.mark.slow
def test_a_run_continued_with_another_batch_size(shared_data: SharedData, tmp_path: Path) -> None:
    root = shared_data("trials") / "resume_other_batch_size"
    stop = ("--trainer.callbacks+=tests.tasks.stop_probe.StopAfter", "--trainer.callbacks.step=3")
    code, output = fit("detect", root, tmp_path, "--name=a", *stop)
    assert code == 143, output
    last = tmp_path / "detect" / "a" / "checkpoints" / "last.ckpt"
    code, output = fit("detect", root, tmp_path, "--name=b", "--data.batch_size=4", f"--ckpt_path={last}", *stop)
    assert code == 0, output
    assert "a step now has 4 images instead of 2; the schedule goes on at the same point of its epochs" in output
    assert len(rates(tmp_path / "detect" / "b")) == 2, "6 images are left: a step of 4 and one of 2"
