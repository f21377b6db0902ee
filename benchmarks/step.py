"""What a training step costs more than its computation, and how long a command takes to say `--help`.

    python -m benchmarks.step [--json]

The same SSDLite320 and FCN models take the same batches through Lightning with our logging and callbacks, and through
a plain loop of forward, backward and optimiser; both in turn in one process.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import LearningRateMonitor

from attention import CoordinateAttention
from backbones import MobileNetV2
from benchmarks.measure import Goal, finish, parse_options, ratio_goal
from datamodules import ADE20K, COCO, FixedSize, RandomRatioCrop
from datamodules.shapes import write_shapes
from tasks.callbacks import Performance, StepSeed
from tasks.callbacks.progress import LineProgress
from tasks.detection import DetectionOptions, DetectionTask
from tasks.detectors import SSDLite320
from tasks.headline import Headline
from tasks.run.checkpoint_files import CheckpointFiles
from tasks.run.guard import NumbersGuard
from tasks.run.life import RunLife
from tasks.run.loop import install
from tasks.run.stop import StopRequests
from tasks.run.summary import RunSummary
from tasks.run.table import CSVMetrics
from tasks.segmentation import SegmentationOptions, SegmentationTask
from tasks.segmentors import EncoderDecoder

STEPS, ROUNDS, IMAGES = 8, 5, 16


class Stopwatch(pl.Callback):
    """CPU seconds from the first to the last step of training, validation and checkpoints left out."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts."""
        self.start = time.process_time()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Takes the time; the last step's stays."""
        self.seconds = time.process_time() - self.start


class Repeat(torch.utils.data.Dataset[Any]):
    """One prepared batch, again and again: data loading is not what is measured here."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        """Steps of an epoch."""
        return STEPS

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The batch."""
        return self.batch


def through_lightning(task: pl.LightningModule, batch: dict[str, Any], folder: Path) -> float:
    """CPU seconds of an epoch through the trainer, with every callback, check and logger of a run but W&B."""
    stopwatch = Stopwatch()
    life = RunLife(folder, Headline("mAP"), StopRequests(), NumbersGuard(folder), every_n_minutes=30)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        default_root_dir=folder,
        logger=[CSVMetrics(folder)],
        callbacks=[
            LineProgress(50),
            RunSummary("detect", "fit", 0),
            StepSeed(0),
            life,
            LearningRateMonitor(),
            Performance(50),
            stopwatch,
        ],
        enable_model_summary=False,
        log_every_n_steps=50,
        plugins=[CheckpointFiles()],
    )
    install(trainer, life)
    loader = torch.utils.data.DataLoader(Repeat(batch), batch_size=None)
    trainer.fit(task, loader)
    return stopwatch.seconds


def through_plain_loop(model: torch.nn.Module, batch: dict[str, Any]) -> float:
    """CPU seconds of as many steps without any framework."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-4)
    loader = torch.utils.data.DataLoader(Repeat(batch), batch_size=None)
    start = time.process_time()
    for loaded in loader:
        losses = model(loaded)
        loss = sum(value.mean() for name, value in losses.items() if "acc_" not in name)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.process_time() - start


def step_tax(name: str, make_task: Callable[[], pl.LightningModule], batch: dict[str, Any]) -> Goal:
    """The ratio of both ways, in turn."""
    seconds: dict[str, list[float]] = {"lightning": [], "plain": []}
    for counted in range(-1, ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            found = through_lightning(make_task(), batch, Path(folder)), through_plain_loop(make_task().model, batch)
        if counted >= 0:
            seconds["lightning"].append(found[0])
            seconds["plain"].append(found[1])
    per_step = {way: 1000 * statistics.median(times) / STEPS for way, times in seconds.items()}
    print(f"{name}: {per_step['lightning']:.1f} ms with Lightning, {per_step['plain']:.1f} ms plain")  # noqa: T201
    return ratio_goal(
        f"{name}, step through Lightning / plain loop", seconds["lightning"], seconds["plain"], 1.05, False
    )


def check_equality(make_task: Callable[[], pl.LightningModule], batch: dict[str, Any]) -> None:
    """Both ways compute the same loss."""
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        task = make_task().train()
        torch.manual_seed(0)
        losses.append(sum(v.mean() for k, v in task.model(batch).items() if "acc_" not in k).item())
    assert losses[0] == losses[1], losses


def help_goal() -> Goal:
    """Time to `--help` over the time to import what cannot be avoided."""
    commands = {
        "help": [sys.executable, "-m", "tasks.detect", "fit", "--help"],
        "imports": [sys.executable, "-c", "import torch, torchvision, lightning.pytorch, torchvision.models.detection"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for counted in range(-1, ROUNDS):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if counted >= 0:
                seconds[name].append(time.perf_counter() - start)
    return ratio_goal("tasks.detect --help / importing torch, torchvision, lightning", *seconds.values(), 1.3, False)


def main() -> None:
    """Runs the benchmark."""
    options = parse_options("Cost of a training step beyond its computation, and of --help.")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_shapes(root / "shapes", seed=0, train=IMAGES, val=1)
        coco = COCO(root / "shapes" / "coco", pipeline=FixedSize(320, 320), batch_size=4, num_workers=0)
        ade20k = ADE20K(
            root / "shapes" / "ade20k", pipeline=RandomRatioCrop(320, 320, crop=256), batch_size=4, num_workers=0
        )
        batches = [next(iter(coco.train_dataloader())), next(iter(ade20k.train_dataloader()))]

    def detection() -> DetectionTask:
        backbone = MobileNetV2(attention=CoordinateAttention, last_conv=True)
        options = DetectionOptions(
            backbone=backbone,
            detector=SSDLite320,
            class_names=coco_names,
            category_ids=list(range(6)),
            image_size=(320, 320),
            optimizer=optimizer,
        )
        return DetectionTask(options)

    def segmentation() -> SegmentationTask:
        head = {"type": "FCNHead", "channels": 64, "num_convs": 1}

        def segmentor(backbone: MobileNetV2, num_classes: int) -> EncoderDecoder:
            return EncoderDecoder(backbone, num_classes, head)

        options = SegmentationOptions(
            backbone=MobileNetV2(attention=CoordinateAttention),
            segmentor=segmentor,
            class_names=names,
            image_size=(256, 256),
            optimizer=optimizer,
        )
        return SegmentationTask(options)

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=1e-9, momentum=0.9, weight_decay=1e-4)

    coco_names, names = [f"class {label}" for label in range(6)], [f"class {label}" for label in range(9)]
    goals = []
    for name, make_task, batch in (("SSDLite320", detection, batches[0]), ("FCN", segmentation, batches[1])):
        check_equality(make_task, batch)
        goals.append(step_tax(name, make_task, batch))
    finish([*goals, help_goal()], options.json)


if __name__ == "__main__":
    main()
