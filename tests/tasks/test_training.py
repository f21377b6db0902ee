"""`tasks.fit` and `tasks.train`: the runs of the command line; and Lightning's own trainer on their checkpoints."""

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer, seed_everything

import tasks
from backbones import MobileNetV2
from datamodules import COCO, FixedSize
from tasks.detection import DetectionOptions, DetectionTask
from tasks.detectors import FCOS, MaskRCNN
from tasks.errors import NumbersError, TaskError
from tasks.run import exit_codes
from tasks.run.record import read_record
from tasks.run.wandb_run import WandbOptions
from tasks.schedules import Cosine
from tasks.trained_run import TrainedRun
from tests.tasks.conftest import ROOT, SIDE
from tests.tasks.running import fit_arguments, require_equal, require_equal_runs, run, two_processes

TRAINER = partial(Trainer, accelerator="cpu", num_sanity_val_steps=0, log_every_n_steps=1)
OFF = WandbOptions(mode="disabled")
SEEDS = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")


def make_data(shapes: Path, **options: object) -> COCO:
    return COCO(shapes / "coco", pipeline=FixedSize(SIDE, SIDE - 32), batch_size=4, num_workers=0, **options)


def make_task(data: COCO, rate: float = 1e-3) -> DetectionTask:
    """The same weights every time."""
    seed_everything(3)
    return DetectionTask(
        DetectionOptions(
            backbone=MobileNetV2(0.25),
            detector=partial(FCOS, channels=32, num_convs=1, coarsest_stride=32),
            class_names=data.class_names,
            category_ids=data.category_ids,
            image_size=data.image_size,
            optimizer=partial(torch.optim.AdamW, lr=rate),
            lr_schedule=partial(Cosine, warmup_steps=2),
        )
    )


def test_a_recipe_in_this_process(shapes: Path, tmp_path: Path) -> None:
    """The folder is that of the command; a finished run is given back, a mistake is raised."""
    options = {
        "name": "here",
        "runs": tmp_path,
        "data.root": shapes / "coco",
        "data.pipeline": "FixedSize",
        "data.pipeline.height": SIDE,
        "data.pipeline.width": SIDE,
        "data.num_workers": 0,
        "model.backbone.attention": None,
        "model.backbone.width": 0.25,
        "trainer.max_steps": 1,
        "trainer.callbacks": [],
        "wandb.mode": "disabled",
        "pictures.images": 0,
    }
    run = tasks.fit("detect", ROOT / "configs/detect/quickstart.yaml", options)
    assert (
        run.folder == tmp_path / "detect/here" and run.best.name == "best.ckpt" and run.score == run.summary["val/mAP"]
    )
    assert run.summary["attention"] == "none" and run.summary["recipe"] == "quickstart"
    record = read_record(run.folder)
    assert record is not None and record.status == "finished" and record.command[0] == "fit"
    again = tasks.fit("detect", ROOT / "configs/detect/quickstart.yaml", {**options, "resume": "auto"})
    unchanged = read_record(run.folder)
    assert again.folder == run.folder and unchanged is not None and len(unchanged.starts) == len(record.starts)
    with pytest.raises(TaskError, match=r"--model.backbone.widht is no option"):
        tasks.fit("detect", ROOT / "configs/detect/quickstart.yaml", {**options, "model.backbone.widht": 1})


def test_objects_go_on_to_the_same_end(shapes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Weights, tables and summaries of an interrupted run are those of one that was not, as on the command line."""
    data = make_data(shapes)

    def train(name: str, epochs: int, resume: str = "never", rate: float = 1e-3) -> TrainedRun:
        trainer, reports = partial(TRAINER, max_epochs=2), [Stop()] if epochs == 1 else []
        return tasks.train(
            name, make_task(data, rate), make_data(shapes), trainer, resume, tmp_path, wandb=OFF, reports=reports
        )

    whole = train("whole", 2)
    assert whole.curve("train/loss").keys() == {0, 1, 2, 3, 4, 5} and whole.summary["head"] == "FCOS"
    with pytest.raises(NumbersError, match="enough"):
        train("parts", 1)
    with pytest.raises(
        TaskError, match=r"was started with other options: model.optimizer.init_args.lr: 0.001 -> 0.002"
    ):
        train("parts", 2, "auto", rate=2e-3)
    parts = train("parts", 2, "auto")
    require_equal_runs(whole.folder, parts.folder)
    assert "tasks.load" not in capfd.readouterr().err
    saved = yaml.safe_load((parts.folder / "config.fit.yaml").read_text())
    assert saved["model"]["backbone"] == "MobileNetV2" and saved["data"]["init_args"]["batch_size"] == 4
    with pytest.raises(TaskError, match=r"made of objects in Python; build it again.*task="):
        tasks.load(parts.best)
    model = tasks.load(parts.best, task=make_task(data), device="cpu")
    assert model.data.pipeline.width == SIDE - 32 and model.batch_size == 1


def test_a_script_on_two_processes(shapes: Path, tmp_path: Path) -> None:
    """Started as any script, it is the run of the command; each process has the result."""
    arguments = fit_arguments("detect", shapes, tmp_path / "command", "two", *two_processes(), "--trainer.max_epochs=1")
    code, output = run("detect", arguments)
    assert code == 0, output
    options = dict(argument.removeprefix("--").split("=", 1) for argument in arguments[1:])
    options |= {"runs": str(tmp_path)}
    script = tmp_path / "train.py"
    script.write_text(
        f"import tasks\nrun = tasks.fit('detect', {options.pop('config')!r}, {options!r})\n"
        "print(f'the score is {run.score}', len(run.curve('train/loss')), run.best.exists())\n"
    )
    ended = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert ended.returncode == 0, ended.stderr
    run_of_script = TrainedRun(tmp_path / "detect/two")
    assert ended.stdout.count(f"the score is {run_of_script.score} 3 True") == 2 == run_of_script.summary["processes"]
    require_equal_runs(tmp_path / "command/detect/two", run_of_script.folder)


@pytest.mark.slow
def test_objects_on_two_processes(shapes: Path, tmp_path: Path) -> None:
    """With half the batch each, the steps of one process; interrupted and resumed."""
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\nfrom functools import partial\nfrom pathlib import Path\nimport tasks\n"
        "from tests.tasks.test_training import OFF, TRAINER, Stop, make_data, make_task\n"
        f"data = make_data(Path({str(shapes)!r}))\n"
        "trainer = partial(TRAINER, max_epochs=2, devices=2, strategy='ddp')\n"
        "reports = [Stop()] if 'stop' in sys.argv else []\n"
        f"runs = {str(tmp_path)!r}\n"
        "run = tasks.train(sys.argv[1], make_task(data), data, trainer, 'auto', runs, wandb=OFF, reports=reports)\n"
        "print('the score is', run.score)\n"
    )

    def start(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, script, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=180,
        )

    ended = start("whole")
    assert ended.returncode == 0 and ended.stdout.count("the score is") == 2, ended.stderr
    stopped = start("parts", "stop")
    assert stopped.returncode != 0 and "enough" in stopped.stderr
    ended = start("parts")
    assert ended.returncode == 0, ended.stderr
    require_equal_runs(tmp_path / "detect/whole", tmp_path / "detect/parts")


def test_runs_leave_no_seed_behind(shapes: Path, tmp_path: Path) -> None:
    """Repeats whose weights are drawn by chance would be the same run."""
    trainer = partial(TRAINER, max_steps=1, limit_val_batches=0)
    data = make_data(shapes)
    task = make_task(data)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), dict(os.environ)
    run = tasks.train("first", task, data, trainer, runs=tmp_path, wandb=OFF)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), dict(os.environ)
    require_equal(before[:3], after[:3], "random numbers")
    assert [os.environ.get(name) for name in SEEDS] == [before[3].get(name) for name in SEEDS]
    assert run.folder.is_absolute() and run.score is None and "train/loss" in run.curves
    with pytest.raises(TaskError, match=r"'train/los' was not logged in .*; did you mean train/loss\?"):
        run.curve("train/los")
    with pytest.raises(TaskError, match=r"has no summary.json"):
        TrainedRun(str(tmp_path)).score  # noqa: B018


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resume": "nevr"}, "resume is 'nevr', expected auto, never, must"),
        ({"resume": True}, "resume is True, expected"),
        ({"trainer": Trainer}, r"trainer is <class .*, expected partial\(Trainer, max_epochs=12\)"),
        ({"trainer": partial(TRAINER, default_root_dir="x")}, "default_root_dir is the run's own folder; give runs"),
        ({"wandb": {"mode": "disabled"}}, "wandb is {'mode': 'disabled'}, expected an object such as WandbOptions"),
        ({"task": DetectionTask}, "task is <class .*, expected an object such as DetectionTask"),
    ],
)
def test_what_is_no_object_of_its_kind(options: dict[str, Any], words: str, shapes: Path, tmp_path: Path) -> None:
    data = make_data(shapes)
    given = {"task": make_task(data), "data": data, "trainer": TRAINER, "wandb": OFF, "runs": tmp_path} | options
    with pytest.raises(TaskError, match=words):
        tasks.train("refused", **given)
    assert not list(tmp_path.iterdir())


def test_a_script_is_stopped_as_a_program_is(shapes: Path, tmp_path: Path) -> None:
    """Ctrl-C is a KeyboardInterrupt, which no `except Exception` takes; SIGTERM ends it with its code; both save."""
    arguments = fit_arguments("detect", shapes, tmp_path, "run", "--trainer.max_epochs=40")
    options = dict(argument.removeprefix("--").split("=", 1) for argument in arguments[1:])
    script = tmp_path / "train.py"
    script.write_text(
        f"import tasks\nrecipe, options = {options.pop('config')!r}, {options!r}\n"
        "try:\n    tasks.fit('detect', recipe, options)\n"
        "except Exception:\n    print('taken for a failure')\n"
        "except KeyboardInterrupt:\n    print('interrupted', flush=True)\n"
        "tasks.fit('detect', [recipe], {'--' + name: value for name, value in options.items()} | {'resume': 'auto'})\n"
    )
    running = subprocess.Popen([sys.executable, "-u", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    for line in running.stdout:
        if re.search(r"epoch 0 step 2", line):
            running.send_signal(signal.SIGINT)
        elif re.search(r"epoch 2 step 8", line):
            running.send_signal(signal.SIGTERM)
    assert running.wait(60) == exit_codes.TERMINATED
    record = read_record(tmp_path / "detect/run")
    assert record is not None
    assert [start.reason for start in record.starts] == ["stopped by SIGINT", "stopped by SIGTERM"]
    assert record.starts[1].step == record.starts[0].last_step


def test_task_and_data_must_fit(shapes: Path, tmp_path: Path) -> None:
    data = make_data(shapes, class_names=["star", "disk", "square", "triangle", "ring", "cross"])
    task = make_task(make_data(shapes))
    with pytest.raises(TaskError, match=r"the task has the classes disk, .*, the data module star, .*class_names="):
        tasks.train("wrong", task, data, TRAINER, runs=tmp_path, wandb=OFF)
    options = {"class_names": data.class_names, "category_ids": data.category_ids, "image_size": data.image_size}
    masks = DetectionTask(DetectionOptions(backbone=MobileNetV2(0.25), detector=MaskRCNN, **options))
    with pytest.raises(TaskError, match="MaskRCNN learns masks; give the data module masks=True"):
        tasks.train("wrong", masks, data, TRAINER, runs=tmp_path, wandb=OFF)
    with pytest.raises(TaskError, match=r"--trainer.precision bf16-true keeps the weights in half precision"):
        tasks.train("wrong", task, make_data(shapes), partial(TRAINER, precision="bf16-true"), runs=tmp_path, wandb=OFF)
    assert not list(tmp_path.iterdir())


def test_lightnings_own_trainer_goes_on(trained: Callable[[str], Path], shapes: Path, tmp_path: Path) -> None:
    """With the checkpoint of a command, and with one of its own; both are data alone."""
    last = trained("detect") / "checkpoints/last.ckpt"
    steps = torch.load(last, weights_only=True)["global_step"]
    own = tmp_path / "own.ckpt"
    for checkpoint, expected in ((last, steps + 3), (own, steps + 6)):
        data = COCO(shapes / "coco", pipeline=FixedSize(SIDE, SIDE), batch_size=4, num_workers=0)
        task = DetectionTask.load_from_checkpoint(last)
        epochs = expected // 3
        options = {"max_epochs": epochs, "logger": False, "enable_checkpointing": False, "limit_val_batches": 0}
        trainer = Trainer(accelerator="cpu", use_distributed_sampler=False, enable_progress_bar=False, **options)
        trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
        assert trainer.global_step == expected
        trainer.save_checkpoint(own)
        kept = torch.load(own, weights_only=True)
        assert kept["hyper_parameters"]["detector"]["class_path"] == "tasks.detectors.FCOS" and "attndense_data" in kept


class Stop(Callback):
    """Ends the training as a failure would, in its second epoch."""

    def on_train_epoch_start(self, trainer: Trainer, *_: object) -> None:
        if trainer.current_epoch == 1:
            raise NumbersError("enough")
