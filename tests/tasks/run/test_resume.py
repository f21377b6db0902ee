"""Going on: from the newest good checkpoint, with each remaining image once, and only as the same run."""

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tasks.run.checkpoint_files import CheckpointFiles
from tasks.run.checkpoint_options import merge_options
from tasks.run.resume import differing_options, flatten, newest_good_checkpoint
from tests.tasks.running import content_of, fit_arguments, run, two_processes

Command = Callable[..., Path]
SEEN = "--trainer.callbacks+=tests.tasks.seen_probe.SeenImages"


def seen(file: Path) -> dict[int, Counter[int]]:
    """How often each image was trained on, by epoch, over all processes."""
    found: dict[int, Counter[int]] = {}
    for part in file.parent.glob(f"{file.name}.*"):
        for line in part.read_text().splitlines():
            epoch, _, _, *indices = map(int, line.split())
            found.setdefault(epoch, Counter()).update(indices)
    return found


@pytest.mark.slow  # in every run: the data module under a trainer, in tests/datamodules/test_training_epochs.py
class TestLayouts:
    """A run of 12 images is stopped in its second epoch after 6 of them, and goes on with another layout."""

    @pytest.mark.parametrize(
        "options",
        [
            ("--data.batch_size=4",),
            ("--data.batch_size=1", "--model.backbone.norms=frozen"),
            ("--data.batch_size=2", "--trainer.accumulate_grad_batches=2"),
            ("--data.batch_size=2", "--data.num_workers=2"),
            ("--data.batch_size=3",),
            two_processes(),
        ],
        ids=lambda options: " ".join(option.removeprefix("--") for option in options),
    )
    @pytest.mark.parametrize("grouped", [False, True], ids=["", "grouped"])
    def test_the_remaining_images_are_seen_once(
        self, options: tuple[str, ...], grouped: bool, shapes: Path, tmp_path: Path
    ) -> None:
        base = ("--data.batch_size=2", "--trainer.max_epochs=3", f"--data.group_by_orientation={str(grouped).lower()}")
        base += ("--trainer.limit_val_batches=0",)
        if "--model.backbone.norms=frozen" in options:
            base += ("--model.backbone.norms=frozen",)
        probe = (SEEN, f"--trainer.callbacks.file={tmp_path}/seen")
        code, output = run(
            "detect", fit_arguments("detect", shapes, tmp_path, "run", *base, *probe, "--trainer.max_steps=9")
        )
        assert code == 0, output
        assert seen(tmp_path / "seen")[1].total() == 6
        code, output = run(
            "detect", fit_arguments("detect", shapes, tmp_path, "run", *base, *probe, *options, "--resume=auto")
        )
        assert code == 0, output
        assert seen(tmp_path / "seen") == {epoch: Counter(range(12)) for epoch in range(3)}
        if "--data.batch_size=4" in options:
            assert "epoch 1" in output and re.search(r"6 of 12 images", output), output
        steps = [tuple(map(int, pair)) for pair in re.findall(r"step (\d+)/(\d+) ", output)]
        assert steps and all(step <= total for step, total in steps) and steps[-1][0] == steps[-1][1]


class TestNewestGood:
    def write(self, folder: Path, name: str, step: int) -> Path:
        path = folder / "checkpoints" / name
        content = {
            "state_dict": {},
            "global_step": step,
            "epoch": step // 3,
            "optimizer_states": [],
            "x": torch.ones(99),
        }
        CheckpointFiles().save_checkpoint(content, path)
        return path

    def test_most_steps_count_whatever_wrote_it(self, tmp_path: Path) -> None:
        self.write(tmp_path, "best.ckpt", 6)
        assert newest_good_checkpoint(tmp_path).step == 6
        self.write(tmp_path, "epoch=4-step=14.ckpt", 14)
        self.write(tmp_path, "last.ckpt", 12)
        found = newest_good_checkpoint(tmp_path)
        assert (found.path.name, found.step, found.epoch) == ("epoch=4-step=14.ckpt", 14, 4)

    def test_a_damaged_one_is_named_and_passed_over(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        for step in (3, 6):
            last = self.write(tmp_path, "last.ckpt", step)
        content = bytearray(last.read_bytes())
        content[content.index(torch.ones(99).numpy().tobytes()) + 40] ^= 1
        last.write_bytes(content)
        found = newest_good_checkpoint(tmp_path)
        assert (found.path.name, found.step) == ("last.before.ckpt", 3)
        assert re.search(r"last\.ckpt is damaged: .*; taking the one before", caplog.text)
        (tmp_path / "checkpoints" / "last.before.ckpt").write_bytes(b"")
        assert newest_good_checkpoint(tmp_path) is None

    def test_weights_alone_are_no_start(self, tmp_path: Path) -> None:
        CheckpointFiles().save_checkpoint(
            {"state_dict": {}, "global_step": 9, "epoch": 1}, tmp_path / "checkpoints" / "w.ckpt"
        )
        assert newest_good_checkpoint(tmp_path) is None


class TestOptions:
    def test_only_length_machines_batch_paths_and_logging_may_differ(self, tmp_path: Path) -> None:
        (tmp_path / "config.fit.yaml").write_text(
            "trainer: {max_epochs: 2, devices: 1, precision: null}\n"
            "data: {class_path: COCO, init_args: {root: a, batch_size: 2, flip: [1, 2]}}\n"
            "model: {optimizer: {init_args: {lr: 0.1}}}\nwandb: {mode: auto}\nseed_everything: 1\n"
        )
        now = {
            "trainer": {"max_epochs": 4, "devices": 2, "precision": None},
            "data": {"class_path": "COCO", "init_args": {"root": "b", "batch_size": 4, "flip": [1, 2]}},
            "model": {"optimizer": {"init_args": {"lr": 0.1}}},
            "wandb": {"mode": "disabled"},
            "seed_everything": 1,
        }
        assert differing_options(tmp_path, now, new_schedule=False) == []
        now["seed_everything"] = 2
        now["trainer"]["precision"] = "bf16-mixed"
        now["model"]["optimizer"]["init_args"]["lr"] = 0.2
        assert differing_options(tmp_path, now, new_schedule=False) == [
            "model.optimizer.init_args.lr: 0.1 -> 0.2",
            "seed_everything: 1 -> 2",
            "trainer.precision: None -> bf16-mixed",
        ]
        assert not any("lr" in line for line in differing_options(tmp_path, now, new_schedule=True))

    def test_flatten(self) -> None:
        assert flatten({"a": {"b": 1, "c": {}}, "d": (1, 2)}) == {"a.b": 1, "d": [1, 2]}

    def test_a_checkpoint_decides_about_the_model_but_not_about_inference(self) -> None:
        saved = {
            "_instantiator": "x",
            "class_names": ["a"],
            "weights": "w.ckpt",
            "channels_last": False,
            "backbone": {"class_path": "B", "init_args": {"width": 0.25, "weights": "imagenet"}},
            "detector": {
                "class_path": "D",
                "init_args": {"channels": 64, "score_threshold": 0.05, "nms_threshold": 0.6},
            },
            "optimizer": {"init_args": {"lr": 0.1}},
        }
        given = {
            "weights": None,
            "channels_last": True,
            "backbone": {"class_path": "B", "init_args": {"width": 0.5, "weights": "imagenet"}},
            "detector": {
                "class_path": "D",
                "init_args": {"channels": 64, "score_threshold": 0.3, "nms_threshold": 0.5},
            },
            "optimizer": {"init_args": {"lr": 0.2}},
        }
        explicit = {
            "backbone": {"init_args": {"width": 0.5}},
            "detector": {"init_args": {"score_threshold": 0.3}},
            "optimizer": {"init_args": {"lr": 0.2}},
        }
        merged, overruled = merge_options(saved, given, explicit, new_schedule=False)
        assert merged == {
            "weights": None,
            "channels_last": True,
            "backbone": {"class_path": "B", "init_args": {"width": 0.25, "weights": None}},
            "detector": {
                "class_path": "D",
                "init_args": {"channels": 64, "score_threshold": 0.3, "nms_threshold": 0.6},
            },
            "optimizer": {"init_args": {"lr": 0.1}},
        }
        assert overruled == ["backbone.init_args.width: 0.5 -> 0.25", "optimizer.init_args.lr: 0.2 -> 0.1"]
        merged, overruled = merge_options(saved, given, explicit, new_schedule=True)
        assert merged["optimizer"] == {"init_args": {"lr": 0.2}} and len(overruled) == 1


@pytest.mark.parametrize("task", ["detect"])
class TestCommand:
    def test_another_run_is_refused_with_the_differences(
        self, task: str, finished: Command, fails: Callable[..., str]
    ) -> None:
        folder = finished(task)
        before = sorted(path.name for path in folder.rglob("*"))
        message = fails(task, "fit", "--resume=auto", "--model.backbone.attention=CBAM", "--trainer.max_epochs=2")
        assert (
            "model.backbone.init_args.attention.class_path: attention.CoordinateAttention -> attention.CBAM" in message
        )
        assert "--name" in message and "max_epochs" not in message
        assert sorted(path.name for path in folder.rglob("*")) == before

    def test_a_finished_run_says_its_score_and_ends_with_0(
        self, task: str, command: Command, finished: Command, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = finished(task)
        written = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
        caplog.set_level("INFO")
        command(task, "fit", "--resume=auto")
        assert re.search(r"is finished: val/mAP [\d.e-]+ after 3 steps", caplog.text)
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == written

    def test_rate_and_schedule_may_change_when_asked(self, task: str, command: Command, finished: Command) -> None:
        """The configuration of the run stays what has started it; that of each later start stands beside it."""
        started = (finished(task) / "config.fit.yaml").read_text()
        folder = command(
            task,
            "fit",
            "--model.lr_schedule=Constant",
            "--model.lr_schedule.warmup_steps=0",
            "--resume=auto",
            "--trainer.max_epochs=2",
            "--new_schedule=true",
            "--model.optimizer.lr=0.5",
            "--model.optimizer.weight_decay=0.125",
        )
        state = content_of(folder / "checkpoints" / "last.ckpt")
        groups = state["optimizer_states"][0]["param_groups"]
        assert {group["lr"] for group in groups} == {0.25}  # 4 of the 8 images that the rate is meant for
        assert {group["weight_decay"] for group in groups} == {0.125}
        assert state["hyper_parameters"]["optimizer"]["init_args"]["lr"] == 0.5
        assert (folder / "config.fit.yaml").read_text() == started
        again = (folder / "config.fit.2.yaml").read_text()
        assert "max_epochs: 2" in again and "ckpt_path: null" in again

    def test_evaluation_needs_weights(
        self, task: str, command: Command, finished: Command, fails: Callable[..., str]
    ) -> None:
        folder = finished(task)
        summary = (folder / "summary.json").read_text()
        for subcommand in ("validate", "test", "predict"):
            message = fails(task, subcommand)
            assert "learnt nothing" in message and str(folder / "checkpoints" / "best.ckpt") in message
        assert (folder / "summary.json").read_text() == summary
        command(task, "validate", "--ckpt_path=best", "--trainer.limit_val_batches=1")
        command(task, "test", "--ckpt_path=last", "--trainer.limit_test_batches=1")
        assert (folder / "summary.validate.json").exists() and (folder / "summary.test.json").exists()
        assert "no " in fails(task, "validate", "--ckpt_path=best", "--name=another")

    def test_options_at_inference_take_effect_with_a_checkpoint(
        self, task: str, command: Command, trained: Command, caplog: pytest.LogCaptureFixture, shapes: Path
    ) -> None:
        import json

        folder = trained(task)
        caplog.set_level("INFO")
        images = f"--data.images={shapes}/coco/val2017/000000000001.jpg"
        few = command(
            task,
            "predict",
            f"--ckpt_path={folder}/checkpoints/best.ckpt",
            images,
            "--model.detector.score_threshold=0.0",
            "--model.detector.max_detections=3",
            "--model.backbone.width=0.5",
            name="few",
        )
        assert len(json.loads((few / "predictions" / "predictions.json").read_text())) == 3
        assert "decides about the model, not the command line: backbone.init_args.width: 0.5 -> 0.25" in caplog.text


def test_a_run_that_never_started_leaves_no_folder(fails: Callable[..., str], tmp_path: Path) -> None:
    fails("detect", "fit", "--data.batch_size=0")
    fails("detect", "fit", "--data.batch_size=1000")
    assert not (tmp_path / "runs" / "detect").exists() or not os.listdir(tmp_path / "runs" / "detect")
