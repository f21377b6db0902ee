"""Numbers that are not finite: no step is taken, nothing is saved, and the step can be taken again."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tasks import repeat
from tasks.run.guard import Step, describe
from tasks.run.numbers import DelayedFlag, gradients_are_finite, weights_are_finite
from tests.tasks.running import content_of, fit_arguments, run, two_processes

Command = Callable[..., Path]
BROKEN = "--trainer.callbacks+=tests.tasks.nan_probe.BrokenGradient"


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return content_of(folder / "checkpoints" / f"{name}.ckpt")["state_dict"]


def all_finite(state: dict[str, torch.Tensor]) -> bool:
    return all(bool(value.isfinite().all()) for value in state.values())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_one_bad_number_is_found(bad: float) -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    assert weights_are_finite(module) and gradients_are_finite(module)
    module[1].running_var[2] = bad
    assert not weights_are_finite(module)
    module[1].running_var[2] = 1.0
    module[0].weight.grad = torch.zeros_like(module[0].weight)
    assert gradients_are_finite(module)
    module[0].weight.grad[4, 2, 1, 0] = bad
    assert not gradients_are_finite(module)


def test_half_precision_does_not_overflow_by_itself() -> None:
    module = nn.Linear(300, 300).half()
    module.weight.data.fill_(300.0)  # a norm of 90,000, beyond the range of float16
    assert weights_are_finite(module)


def test_a_flag_on_the_cpu_is_read_at_once() -> None:
    flag = DelayedFlag()
    assert flag.put(torch.tensor(False)) is False and flag.put(torch.tensor(True)) is True and flag.read() is None


def test_the_line_names_the_guilty_process() -> None:
    good = Step(7, [7], [[(0, 1)]], ["a.jpg"], {"loss_cls": 0.5})
    bad = Step(7, [7], [[(0, 2)]], ["b.jpg"], {"loss_cls": math.nan})
    assert describe([good, bad]) == ("the loss is not finite at step 7 on process 1 (loss_cls nan; images b.jpg)")
    assert describe([good]) == "gradients are not finite under a finite loss at step 7 (loss_cls 0.5; images a.jpg)"


def test_a_bad_gradient_ends_the_run_and_spoils_no_checkpoint(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        few = ("--trainer.max_epochs=2", "--trainer.limit_val_batches=1")
        command("detect", "fit", *few, BROKEN, "--trainer.callbacks.step=4")
    assert end.value.code == 4
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: gradients are not finite under a finite loss at step 4 (")
    assert ".jpg" in line and "learning rate" in line
    folder = tmp_path / "runs" / "detect" / "test"
    for name in ("last", "best"):
        assert all_finite(weights(folder, name))
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"

    kept = json.loads((folder / "not_finite" / "step-4.json").read_text())
    process = kept["processes"][0]
    assert (kept["task"], kept["step"], kept["seed"]) == ("detect", 4, 42)
    assert len(process["keys"][0]) == len(process["images"]) == 4 and all(epoch == 1 for epoch, _ in process["keys"][0])

    repeat.main([str(folder)])
    shown = capsys.readouterr().out
    for name, value in process["losses"].items():
        assert f"{name}: {value:.6g}\n" in shown
    assert all(image in shown for image in process["images"]) and "again its numbers are not finite" in shown


def test_a_few_bad_steps_may_be_skipped(command: Command, tmp_path: Path) -> None:
    """One in a row is skipped, and the steps behind it count anew; of two in a row the second ends the run."""
    once = (BROKEN, "--trainer.callbacks.step=1")
    twice = (BROKEN, "--trainer.callbacks.step=4", "--trainer.callbacks.steps=2")
    options = ("--trainer.max_epochs=2", "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.01")
    options += ("--trainer.limit_val_batches=0", "--save_every_n_steps=1")
    with (
        pytest.warns(UserWarning, match=r"the step is skipped \(1 of at most 1 in a row\)") as skipped,
        pytest.raises(SystemExit) as end,
    ):
        command("detect", "fit", *options, *once, *twice, "--skip_bad_steps=1")
    assert end.value.code == 4
    assert sum("the step is skipped" in str(warning.message) for warning in skipped) == 2
    folder = tmp_path / "runs" / "detect" / "test"
    assert (folder / "not_finite" / "step-5.ckpt").exists()
    last = content_of(folder / "checkpoints" / "last.ckpt")
    assert last["global_step"] == 5 and all_finite(last["state_dict"])


def test_weights_that_explode_are_not_saved(command: Command, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        command(
            "detect",
            "fit",
            "--model.optimizer=torch.optim.SGD",
            "--model.optimizer.lr=1e30",
            "--model.lr_schedule=Constant",
            "--save_every_n_steps=1",
        )
    assert end.value.code == 4
    folder = tmp_path / "runs" / "detect" / "test" / "checkpoints"
    for path in folder.glob("*.ckpt"):
        state = content_of(path)["state_dict"]
        assert all(bool((value.abs() < 1e19).all()) for value in state.values())


def test_an_undefined_score_never_blocks_best(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.metrics.coco import COCODetectionMetric

    compute = COCODetectionMetric.compute
    scores = iter([math.nan, 0.25, 0.125, math.nan])
    monkeypatch.setattr(COCODetectionMetric, "compute", lambda self: compute(self) | {"mAP": next(scores)})
    one_step = ("--trainer.limit_train_batches=1", "--trainer.num_sanity_val_steps=0")
    folder = command("detect", "fit", "--trainer.max_epochs=4", *one_step)
    best = content_of(folder / "checkpoints" / "best.ckpt")
    assert best["global_step"] == 2
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["val/mAP"], summary["step"]) == (0.25, 2)
    assert json.loads((folder / "run.json").read_text())["score"] == {"val/mAP": 0.25}


@pytest.mark.slow
def test_a_bad_gradient_in_one_of_two_processes_ends_both(shapes: Path, tmp_path: Path) -> None:
    broken = (BROKEN, "--trainer.callbacks.step=4", "--trainer.callbacks.rank=1")
    code, output = run("detect", fit_arguments("detect", shapes, tmp_path, "run", *two_processes(), *broken))
    assert code == 4, output
    assert "gradients are not finite under a finite loss at step 4 on process 0, 1" in output.splitlines()[-1]
    folder = tmp_path / "detect" / "run"
    assert all_finite(weights(folder, "last"))
    kept = json.loads((folder / "not_finite" / "step-4.json").read_text())
    assert len(kept["processes"]) == 2
