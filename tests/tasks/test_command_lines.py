"""The two command lines, from fit to predict, on the sample data set."""

import csv
import json
import logging
import math
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from backbones import MobileNetV2
from tasks import command_line
from tasks.detection import DetectionTask
from tasks.segmentation import SegmentationTask
from tests.tasks.conftest import MAINS
from tests.tasks.running import SERVER, content_of, require_equal

Command = Callable[..., Path]
TASKS = ("detect", "segment")
HEADLINE = {"detect": "val/mAP", "segment": "val/mIoU"}
DATA = {"detect": "coco", "segment": "ade20k"}

one_in_every_run = pytest.mark.parametrize("task", ["detect", pytest.param("segment", marks=pytest.mark.slow)])
"""What both tasks share is tried on one of them in every run of the tests, and on both with `-m slow`."""


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def losses(folder: Path) -> list[str]:
    """The loss of each step of a run, as its table has it."""
    with (folder / "metrics.csv").open() as lines:
        return [row["train/loss"] for row in csv.DictReader(lines) if row["train/loss"]]


@one_in_every_run
def test_run_folder_stands_alone(task: str, command: Command) -> None:
    folder = command(task, "fit", "--trainer.max_epochs=2", "--pictures.images=8")
    assert {path.name for path in folder.iterdir()} == {
        "checkpoints",
        "config.fit.yaml",
        "data.json",
        "metrics.csv",
        "pictures",
        "run.json",
        "summary.json",
        "evaluation.npz",
    }
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "last.before.ckpt"}
    pictures = {path.name: path.read_bytes() for path in (folder / "pictures").glob("*.png")}
    assert len(pictures) == 7 + 1  # all validation images, fewer than 8, and one of training
    best = {path.name: path.read_bytes() for path in (folder / "pictures" / "best").iterdir()}
    assert best.keys() == pictures.keys() - {"training.png"}

    summary = read_json(folder / "summary.json")
    assert summary["epoch"] == 0 or best == {name: pictures[name] for name in best}
    assert all(not isinstance(value, dict | list) for value in summary.values())
    assert summary["backbone"] == "MobileNetV2 x0.25" and summary["attention"] == "CoordinateAttention"
    assert summary["parameters"] > 0 and summary["MACs"] > 0 and summary["seed"] == 42
    with (folder / "metrics.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    scores = [float(row[HEADLINE[task]]) for row in rows if row[HEADLINE[task]]]
    assert len(scores) == 2 and summary[HEADLINE[task]] == pytest.approx(max(scores))
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert len(losses) == 6 and all(math.isfinite(loss) for loss in losses)


def test_piped_output_is_one_line_per_step_with_what_a_user_asks(trained: Command) -> None:
    shown = trained("detect").with_name("printed.txt").read_text()
    assert "\r" not in shown
    lines = [line for line in shown.splitlines() if line.startswith("epoch 0 step")]
    assert len(lines) == 3
    for part in (" loss ", " lr ", " img/s ", " left"):
        assert all(part in line for line in lines)
    assert "epoch 0 val: mAP " in shown


@pytest.mark.slow  # in every run: TestFormats in tests/tasks/test_task_options.py
@pytest.mark.parametrize("task", TASKS)
def test_evaluation_of_a_checkpoint_repeats_its_numbers(task: str, command: Command) -> None:
    folder = command(task, "fit")
    trained = read_json(folder / "summary.json")
    fit_config = (folder / "config.fit.yaml").read_text()
    for subcommand, prefix in (("validate", "val/"), ("test", "test/")):
        command(task, subcommand, f"--ckpt_path={folder}/checkpoints/best.ckpt")
        evaluated = read_json(folder / f"summary.{subcommand}.json")
        for name, value in trained.items():
            if name.startswith("val/"):
                assert evaluated[name.replace("val/", prefix)] == pytest.approx(value, abs=1e-9), name
    assert (folder / "config.fit.yaml").read_text() == fit_config
    assert (folder / "config.validate.yaml").exists() and (folder / "config.test.yaml").exists()


def test_saved_config_of_fit_trains_again(trained: Command, tmp_path: Path) -> None:
    folder = trained("detect")
    assert "ckpt_path: null" in (folder / "config.fit.yaml").read_text()
    own = (f"--runs={tmp_path}", "--name=again", "--trainer.limit_val_batches=0")
    MAINS["detect"](["fit", f"--config={folder}/config.fit.yaml", *own])
    first, again = (losses(run) for run in (folder, tmp_path / "detect" / "again"))
    assert len(first) == 3 and first == again


@one_in_every_run
@pytest.mark.parametrize(("workers", "steps"), [(0, (4,)), pytest.param(1, (2, 3), marks=pytest.mark.slow)], ids=str)
def test_resume_equals_an_uninterrupted_run(
    workers: int, steps: tuple[int, ...], task: str, command: Command, tmp_path: Path
) -> None:
    """Bitwise, from the middle of an epoch and from its end; order, augmentation, dropout and momentum included."""
    options = ("--trainer.max_epochs=2", "--model.lr_schedule.warmup_steps=2", f"--data.num_workers={workers}")
    whole = command(
        task,
        "fit",
        *options,
        "--trainer.callbacks+=ModelCheckpoint",
        "--trainer.callbacks.every_n_train_steps=1",
        "--trainer.callbacks.save_top_k=-1",
        "--trainer.callbacks.filename={step}",
        f"--trainer.callbacks.dirpath={tmp_path}/steps",
        name="whole",
    )
    expected = content_of(whole / "checkpoints" / "last.ckpt")
    assert expected["global_step"] == 6  # 2 epochs of 3 steps
    for step in steps:
        checkpoint = tmp_path / "steps" / f"step={step}.ckpt"
        resumed = command(task, "fit", *options, f"--ckpt_path={checkpoint}", name=f"from-{step}")
        found = content_of(resumed / "checkpoints" / "last.ckpt")
        assert found["global_step"] == 6
        for name, value in expected["state_dict"].items():
            assert torch.equal(value, found["state_dict"][name]), f"{name} after resuming at step {step}"
        states = [[each["state"] for each in content["optimizer_states"]] for content in (expected, found)]
        require_equal(*states, "optimizer_states")  # bit for bit
        one, other = (read_json(folder / "summary.json")[HEADLINE[task]] for folder in (whole, resumed))
        assert other <= one  # the best epoch may lie before the checkpoint


@pytest.mark.slow
def test_resumed_run_continues_its_table(command: Command) -> None:
    folder = command("segment", "fit", "--trainer.max_epochs=2", "--model.lr_schedule.class_path=Constant")
    with (folder / "metrics.csv").open() as lines:
        before = list(csv.DictReader(lines))
    command(
        "segment",
        "fit",
        "--trainer.max_epochs=3",
        "--model.lr_schedule.class_path=Constant",
        f"--ckpt_path={folder}/checkpoints/last.ckpt",
    )
    with (folder / "metrics.csv").open() as lines:
        after = list(csv.DictReader(lines))
    steps = [int(row["step"]) for row in after]
    assert steps == sorted(set(steps)) and len(after) > len(before)
    assert [row["train/loss"] for row in after[: len(before)]] == [row["train/loss"] for row in before]


@pytest.mark.parametrize("task", TASKS)
def test_predict_writes_results_and_pictures(
    task: str, trained: Command, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class names come from the checkpoint, which is that of the run whose config is given, under whatever new name."""
    kept: list[object] = []  # what Lightning would hand back at the end
    monkeypatch.setattr("lightning.pytorch.loops.prediction_loop.move_data_to_device", lambda *kind: kept.append(kind))
    images = sorted((shapes / "coco" / "val2017").glob("*.jpg"))[:3]
    MAINS[task](
        [
            "predict",
            f"--config={trained(task)}/config.fit.yaml",
            "--ckpt_path=best",
            f"--data.root={tmp_path}/nowhere",
            f"--data.images={images[0].parent}/00000000000[123].jpg",
            f"--runs={tmp_path}/runs",
            "--name=images",
        ]
    )
    written = tmp_path / "runs" / task / "images" / "predictions"
    assert sorted(path.name for path in (written / "pictures").iterdir()) == [f"{path.stem}.png" for path in images]
    assert kept == []
    if task == "detect":
        results = json.loads((written / "predictions.json").read_text())
        assert {row["category_id"] for row in results} <= {1, 2, 4, 7, 11, 13}  # the original ids
        assert {row["image_id"] for row in results} <= {1, 2, 3}
        for row in results:
            with Image.open(images[row["image_id"] - 1]) as image:
                x, y, width, height = row["bbox"]
                assert -1e-3 <= x <= x + width <= image.width + 1e-3 and -1e-3 <= y <= y + height <= image.height + 1e-3
    else:
        for path in images:
            with Image.open(path) as image, Image.open(written / "label_maps" / f"{path.stem}.png") as labels:
                assert labels.mode == "L" and labels.size == image.size
                assert 1 <= np.asarray(labels).min() and np.asarray(labels).max() <= 9


def classes_and_parameters(task: str, checkpoint: Path) -> tuple[int, int]:
    """What a checkpoint holds, read as data."""
    torch.load(checkpoint, weights_only=True)
    kind = {"detect": DetectionTask, "segment": SegmentationTask}[task]
    loaded = kind.load_from_checkpoint(checkpoint, weights_only=True)
    return len(loaded.class_names), sum(parameter.numel() for parameter in loaded.model.parameters())


@one_in_every_run
def test_checkpoint_loads_in_another_process_without_code(task: str, trained: Command) -> None:
    folder = trained(task)
    with SERVER.Pool(1) as fresh:
        found = fresh.apply(classes_and_parameters, (task, folder / "checkpoints" / "best.ckpt"))
    assert found == ({"detect": 6, "segment": 9}[task], read_json(folder / "summary.json")["parameters"])


def test_weights_start_a_new_run(command: Command, trained: Command) -> None:
    folder = trained("detect")
    checkpoint = folder / "checkpoints" / "last.ckpt"
    start = content_of(checkpoint)["state_dict"]
    # A learning rate of 0 leaves the weights where they started.
    again = command(
        "detect",
        "fit",
        f"--model.weights={checkpoint}",
        "--model.optimizer.lr=0.0",
        "--model.optimizer.weight_decay=0.0",
        "--trainer.limit_val_batches=0",
        name="again",
    )
    end = content_of(again / "checkpoints" / "last.ckpt")
    parameters = [name for name in start if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(start[name], end["state_dict"][name]) for name in parameters)
    assert end["hyper_parameters"]["optimizer"]["init_args"]["lr"] == 0.0


def test_seed_changes_a_run(command: Command, trained: Command) -> None:
    """And the same seed repeats it: `test_saved_config_of_fit_trains_again`."""
    first = losses(trained("segment"))
    other = losses(command("segment", "fit", "--seed_everything=2", "--trainer.limit_val_batches=0", name="other"))
    assert len(first) == 3 and all(one != another for one, another in zip(first, other, strict=True))


def test_new_run_does_not_overwrite_an_old_one(command: Command, finished: Command) -> None:
    old = finished("detect")
    written = {path: path.stat().st_mtime_ns for path in old.rglob("*") if path.is_file()}
    command("detect", "fit", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=0")
    assert {path.name for path in old.parent.iterdir()} == {"test", "test-2"}
    assert (old.with_name("test-2") / "checkpoints" / "last.ckpt").exists()
    assert {path: path.stat().st_mtime_ns for path in old.rglob("*") if path.is_file()} == written


def test_wandb_is_offline_and_silent_without_a_key(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    short = ("--trainer.limit_train_batches=1", "--trainer.limit_val_batches=0")
    folder = command("segment", "fit", "--wandb.mode=auto", *short)
    files = list((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 1 and files[0].stat().st_size > 0
    assert (folder / "wandb_id.txt").read_text() in files[0].name


def test_wandb_compares_runs_by_their_best_number(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks import cli
    from tasks.run.wandb_run import WandbRun

    sent: list[tuple] = []
    monkeypatch.setattr(WandbRun, "_send", lambda self, method, *arguments: sent.append((method, *arguments)))
    monkeypatch.setattr(cli, "make_wandb_run", lambda *_: WandbRun(Path(), "offline", {"name": "", "project": ""}, 1.0))
    command("detect", "fit")
    assert ("keep_best", "val/mAP", "max") in sent
    configured: dict = {}
    for method, *arguments in sent:
        if method == "update_config":
            configured |= arguments[0]
    flat = {"task", "backbone", "attention", "detector", "parameters", "MACs", "seed", "git"}
    assert flat <= configured.keys() and not any(isinstance(configured[key], dict) for key in flat)
    assert configured["model"]["backbone"]["class_path"] == "backbones.MobileNetV2"  # the whole configuration besides
    assert configured["data"]["class_path"] == "datamodules.COCO"
    assert flat | {"class_names"} <= {*configured["facts"]} <= configured.keys()
    (tags,) = (arguments[0] for method, *arguments in sent if method == "add_tags")
    assert tags == [configured[name] for name in ("task", "backbone", "attention", "head", "recipe")]
    (told,) = (arguments[0] for method, *arguments in sent if method == "update_summary")
    assert {"data_hash", "seconds", "peak_memory_MB", "start"} <= told.keys() and not told.keys() & configured.keys()
    assert not any(method == "log_evaluation" for method, *_ in sent)  # nothing is uploaded unless asked
    logged = {name for method, *arguments in sent if method == "log" for name in arguments[0]}
    assert {"val/mAP", "train/loss"} <= logged and not any(name.startswith("val/AP/") for name in logged)


class TestMistakes:
    """A user's mistake ends in one line that says what was expected."""

    def test_missing_data_set(self, fails: Callable[..., str], tmp_path: Path) -> None:
        assert str(tmp_path) in fails("detect", "fit", f"--data.root={tmp_path}")
        assert "objectInfo" in fails("segment", "fit", f"--data.root={tmp_path}")

    def test_missing_checkpoint(self, fails: Callable[..., str]) -> None:
        assert "nowhere.ckpt" in fails("detect", "validate", "--ckpt_path=nowhere.ckpt")

    def test_missing_weights(self, fails: Callable[..., str]) -> None:
        assert "nowhere.ckpt" in fails("segment", "fit", "--model.weights=nowhere.ckpt")

    @pytest.mark.parametrize("option", ["--model.weights", "--ckpt_path"])
    def test_file_that_is_no_checkpoint(self, option: str, fails: Callable[..., str], tmp_path: Path) -> None:
        damaged, weights = tmp_path / "damaged.ckpt", tmp_path / "weights.pth"
        damaged.write_text("hello")
        torch.save({"conv.weight": torch.ones(1)}, weights)
        assert "damaged or no checkpoint" in fails("detect", "fit", f"{option}={damaged}")
        assert "--model.backbone.weights" in fails("detect", "fit", f"{option}={weights}")

    def test_checkpoint_of_the_other_task(self, fails: Callable[..., str], tmp_path: Path) -> None:
        torch.save({"state_dict": {}, "hyper_parameters": {"detector": {}}}, tmp_path / "detect.ckpt")
        message = fails("segment", "validate", f"--ckpt_path={tmp_path}/detect.ckpt")
        assert (
            "detect.ckpt is the checkpoint of tasks.detect: python -m tasks.detect" in message
            and "'detector'" in message
        )

    def test_weights_without_a_network(self, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise RuntimeError("weights='imagenet' could not be downloaded (no network)")

        monkeypatch.setattr(sys.modules["backbones.mobilenet_v2"], "load_weights", refuse)
        message = fails("detect", "fit", "--model.backbone.weights=imagenet")
        assert message == "error: weights='imagenet' could not be downloaded (no network)"

    def test_feature_that_the_backbone_lacks(self, fails: Callable[..., str]) -> None:
        message = fails("segment", "fit", "--model.segmentor.auxiliary_head.in_index=4")
        assert "FCNHead has in_index 4" in message and "4, 8, 16, 32" in message

    def test_refused_argument(self, fails: Callable[..., str]) -> None:
        assert "width=-1" in fails("detect", "fit", "--model.backbone.width=-1")

    def test_unknown_head(self, fails: Callable[..., str]) -> None:
        assert "NoHead" in fails("segment", "fit", "--model.segmentor.decode_head.type=NoHead")

    def test_nothing_to_predict_on(self, trained: Command, fails: Callable[..., str], tmp_path: Path) -> None:
        checkpoint = f"--ckpt_path={trained('detect')}/checkpoints/last.ckpt"
        (tmp_path / "empty").mkdir()
        assert f"{tmp_path}/empty" in fails("detect", "predict", f"--data.images={tmp_path}/empty", checkpoint)

    def test_loss_that_is_not_finite(self, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            command("segment", "fit", "--model.optimizer.lr=1e30", "--model.lr_schedule.warmup_steps=0")
        assert stop.value.code == 4
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert message.startswith("error: the loss is not finite at step 1 (loss_ce nan") and ".jpg" in message

    def test_corrupt_image_in_a_worker(self, fails: Callable[..., str], shapes: Path, tmp_path: Path) -> None:
        import shutil

        shutil.copytree(shapes, tmp_path / "broken")
        image = tmp_path / "broken" / "coco" / "train2017" / "000000000003.jpg"
        image.write_bytes(image.read_bytes()[:200])
        message = fails("detect", "fit", f"--data.root={tmp_path}/broken/coco", "--data.num_workers=1")
        assert "000000000003.jpg" in message

    def test_typo(self, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
        """Others: `test_option` in tests/tasks/test_command_line_errors.py."""
        with pytest.raises(SystemExit) as stop:
            command("detect", "fit", "--model.optimzer=x")
        assert stop.value.code == 2
        assert "optimzer" in capsys.readouterr().err


def test_help_shows_every_option_of_a_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    from tasks import detect

    detect.main(["fit", "--model.backbone.help=ResNet"])
    shown = capsys.readouterr().out
    assert "--model.backbone.placement" in shown and "standard" in shown


def test_messages_about_weights_are_shown_and_noise_is_not(
    command: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch.save(MobileNetV2(0.25).state_dict(), tmp_path / "plain.pth")
    options = [f"--model.backbone.weights={tmp_path}/plain.pth", "--trainer.fast_dev_run=1"]
    capfd.readouterr()
    command("detect", "fit", *options)
    shown = capfd.readouterr().err
    assert "entries of attention stay as initialised" in shown
    assert logging.getLogger("backbones").handlers == []

    message = {
        text: re.sub(r"\\([()])", r"\1", text).replace(".*", "FOLDER").replace(r"\d+", "74")
        for text in command_line.QUIET
    }
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        with command_line.helpful_output():
            for text in [*message.values(), "training waits for data"]:
                warnings.warn(text, stacklevel=1)
    assert [str(entry.message) for entry in recorded] == ["training waits for data"]


def test_another_class_starts_from_its_own_defaults(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*options: str) -> dict:
        command("detect", "fit", *options, "--print_config")
        return yaml.safe_load(capsys.readouterr().out)["model"]

    assert printed()["backbone"]["init_args"]["width"] == 0.25
    published = printed("--model.backbone=backbones.mobilenet_v2_se", "--model.backbone.frozen_stages=2")
    assert published["backbone"]["init_args"]["width"] == 1.0
    assert published["backbone"]["init_args"]["frozen_stages"] == 2
    assert printed("--model.backbone=ResNet")["backbone"]["init_args"]["attention"] is None
    assert printed("--model.detector=tasks.detectors.RetinaNet")["detector"]["init_args"]["channels"] == 256

    saved = [f"--model.backbone.attention=attention.{name}" for name in ("CoordinateAttention", "SqueezeExcitation")]
    saved.insert(1, "--model.backbone.attention.reduction=2")
    backbone = printed(*saved)["backbone"]["init_args"]
    assert backbone["attention"]["init_args"]["reduction"] == 16 and backbone["width"] == 0.25


def test_print_config_is_complete(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command("detect", "fit", "--model.backbone.attention=CBAM", "--print_config")
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["backbone"]["init_args"]["attention"]["class_path"] == "attention.CBAM"
