"""Runs of every length start, count right, end where they say, and are saved and scored at their last step."""

import csv
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.tasks.running import content_of

Command = Callable[..., Path]
HEADLINE = {"detect": "val/mAP", "segment": "val/mIoU"}


def last(folder: Path) -> dict:
    return content_of(folder / "checkpoints" / "last.ckpt")


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def scored_steps(folder: Path, task: str = "detect") -> list[int]:
    """Optimiser steps after which the run was validated."""
    return [int(row["step"]) + 1 for row in table(folder) if row.get(HEADLINE[task])]


@pytest.mark.parametrize(
    ("options", "steps", "scored"),
    [
        (("max_steps=5", "max_epochs=-1"), 5, [3, 5]),  # 3 steps an epoch: the last epoch is cut short
        (("max_steps=5", "max_epochs=-1", "check_val_every_n_epoch=null", "val_check_interval=2"), 5, [2, 4, 5]),
        *(
            pytest.param(*values, marks=pytest.mark.slow)
            for values in (
                (("max_epochs=3", "check_val_every_n_epoch=2", "limit_train_batches=2"), 6, [4, 6]),  # test_recipes.py
                (("max_epochs=2", "accumulate_grad_batches=2"), 4, [2, 4]),  # test_training_options.py
                (("max_steps=5", "max_epochs=-1", "check_val_every_n_epoch=10"), 5, [5]),
                (("max_epochs=3", "check_val_every_n_epoch=2"), 9, [6, 9]),
                (("max_epochs=2", "max_steps=4"), 4, [3, 4]),
                (("max_epochs=2", "val_check_interval=0.34"), 6, [1, 2, 3, 4, 5, 6]),
                (("max_epochs=2", "limit_train_batches=2"), 4, [2, 4]),
                (("max_epochs=2", "overfit_batches=2"), 4, [2, 4]),
                (("max_epochs=2", "limit_val_batches=0"), 6, []),
            )
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_ends_where_it_says(
    options: tuple[str, ...], steps: int, scored: list[int], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = command("detect", "fit", *(f"--trainer.{option}" for option in options))
    assert last(folder)["global_step"] == steps
    assert scored_steps(folder) == scored
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["step"]) == ("finished", steps)
    printed = re.findall(r"step (\d+)/(\d+) ", capsys.readouterr().out)
    if "max_steps=5" in options:
        assert printed == [(str(step), "5") for step in range(1, 6)]


class TestTime:
    def test_time_alone_is_no_length_for_a_schedule(self, fails: Callable[..., str]) -> None:
        message = fails("detect", "fit", "--trainer.max_epochs=-1", "--trainer.max_time=00:00:01:00")
        assert "--trainer.max_time is a limit, not a length" in message and "Constant" in message

    def test_a_run_without_end_is_refused(self, fails: Callable[..., str]) -> None:
        message = fails("detect", "fit", "--trainer.max_epochs=-1", "--model.lr_schedule=Constant")
        assert "no end; give --trainer.max_epochs or --trainer.max_steps" in message

    def test_time_with_a_constant_rate_is_a_run(self, command: Command) -> None:
        folder = command(
            "detect", "fit", "--trainer.max_epochs=-1", "--trainer.max_time=00:00:00:01", "--model.lr_schedule=Constant"
        )
        step = last(folder)["global_step"]
        assert step >= 1 and scored_steps(folder)[-1] == step
        assert json.loads((folder / "run.json").read_text())["status"] == "finished"

    def test_time_that_is_over_before_the_length_has_an_exit_code(self, command: Command, tmp_path: Path) -> None:
        with pytest.raises(SystemExit) as end:
            command("detect", "fit", "--trainer.max_epochs=1000", "--trainer.max_time=00:00:00:01")
        assert end.value.code == 124
        folder = tmp_path / "runs" / "detect" / "test"
        record = json.loads((folder / "run.json").read_text())
        assert record["status"] == "stopped" and record["reason"] == "time limit (--trainer.max_time)"
        assert record["step"] == last(folder)["global_step"] == scored_steps(folder)[-1]


def rates(folder: Path) -> list[float]:
    return [float(row["lr-AdamW/head"]) for row in table(folder)]


def cosine(step: int, steps: int, warmup: int, images: int = 4) -> float:
    """The rate of the quickstart, which is meant for 8 images a step."""
    factor = 0.5 * (1 + math.cos(math.pi * step / steps))
    return 0.002 * images / 8 * factor * (0.001 + 0.999 * step / warmup if step < warmup else 1)


@pytest.mark.slow  # in every run: the run that is cut short, below
@pytest.mark.parametrize(
    ("first", "second"),
    [("max_epochs=2", "max_epochs=4"), ("max_steps=6", "max_steps=12")],
)
def test_a_continued_run_has_the_rates_of_its_new_length(
    first: str, second: str, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    options = ("--model.lr_schedule.warmup_steps=2", "--trainer.max_epochs=-1", "--trainer.limit_val_batches=0")
    folder = command("detect", "fit", *options, f"--trainer.{first}")
    assert rates(folder) == pytest.approx([cosine(step, 6, 2) for step in range(6)])
    caplog.set_level("INFO")
    command("detect", "fit", *options, f"--trainer.{second}", "--resume=auto")
    assert rates(folder)[6:] == pytest.approx([cosine(step, 12, 2) for step in range(6, 12)])
    assert "the run is now 12 steps long instead of 6" in caplog.text
    assert last(folder)["global_step"] == 12


def test_with_other_steps_the_schedule_goes_on_at_the_same_point_of_its_epochs(
    command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    """2 of 4 epochs with 3 steps each, then 2 with 6 each: as the second half of a run of 24 steps."""
    stop = ("--trainer.callbacks+=tests.tasks.stop_probe.StopAfter", "--trainer.callbacks.step=6")
    options = ("--model.lr_schedule.warmup_steps=2", "--trainer.max_epochs=4", "--trainer.limit_val_batches=0", *stop)
    with pytest.raises(SystemExit) as end:
        command("detect", "fit", *options)
    assert end.value.code == 143
    caplog.set_level("INFO")
    folder = command("detect", "fit", *options, "--resume=auto", "--data.batch_size=2")
    found = rates(folder)
    assert found[:6] == pytest.approx([cosine(step, 12, 2) for step in range(6)])
    assert found[6:] == pytest.approx([cosine(step, 24, 2, images=2) for step in range(12, 24)])
    assert "a step now has 2 images instead of 4; the schedule goes on at the same point of its epochs" in caplog.text


def test_a_run_cut_short_in_an_epoch_goes_on_with_the_images_that_are_left(
    command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    """The first part is 8 steps long and has their schedule, the second goes on in that of 12, with 6 an epoch."""
    options = ("--trainer.max_epochs=2", "--data.batch_size=2", "--trainer.limit_val_batches=1")
    options += ("--model.lr_schedule.warmup_steps=2",)
    command("detect", "fit", *options, "--trainer.max_steps=8")
    caplog.set_level("INFO")
    folder = command("detect", "fit", *options, "--resume=auto")
    assert last(folder)["global_step"] == 12
    assert "the run is now 12 steps long instead of 8" in caplog.text
    assert rates(folder)[:8] == pytest.approx([cosine(step, 8, 2, images=2) for step in range(8)])
    assert rates(folder)[8:] == pytest.approx([cosine(step, 12, 2, images=2) for step in range(8, 12)])


def test_the_last_smaller_group_of_an_accumulation_has_its_right_weight(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 batches in groups of 2: the gradient of the second step is that of the third batch, undivided."""
    from tasks.run.guard import NumbersGuard

    norms: list[float] = []
    before_step = NumbersGuard.before_step

    def record(self, trainer, module, *arguments):
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]).item())
        return before_step(self, trainer, module, *arguments)

    monkeypatch.setattr(NumbersGuard, "before_step", record)
    frozen = ("--model.optimizer.lr=0.0", "--model.optimizer.weight_decay=0.0", "--model.backbone.norms=frozen")
    frozen += ("--trainer.limit_val_batches=0",)
    command("detect", "fit", *frozen, name="single")
    single, norms[:] = list(norms), []
    command("detect", "fit", *frozen, "--trainer.accumulate_grad_batches=2", name="grouped")
    assert len(single) == 3 and len(norms) == 2
    assert norms[1] == pytest.approx(single[2], rel=1e-4)
    assert norms[0] < max(single[:2]) * 1.001
