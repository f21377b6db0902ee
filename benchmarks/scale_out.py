"""What processes send to each other: in a training step of a recipe, and at the end of an evaluation.

    python -m benchmarks.scale_out [--write docs/cluster.md]

Counted at PyTorch's dispatcher, where every collective of c10d passes, whoever calls it (DDP, Lightning, this package),
in two gloo processes that run the real command line. Bytes depend on neither the number of processes nor the device;
times do, and are not measured here: they would say nothing about GPUs.
"""

import json
import os
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.evaluate import CLASSES, as_batches, make_problem
from benchmarks.measure import ROOT
from datamodules.shapes import write_shapes
from tasks.metrics import COCODetectionMetric, SegmentationMetric

RECIPES = (
    "detect/quickstart",
    "segment/quickstart",
    "detect/ssdlite320",
    "segment/deeplabv3_160k",
    "detect/retinanet_1x",
    "segment/upernet_160k",
)
BACKBONES = {"segment/deeplabv3_160k": "mobilenet_v2", "segment/upernet_160k": "resnet50"}
"""In place of the recipe's own."""
MEASURED_STEP = 2  # the first builds the buckets in order of use, the second is the first with them
COCO_IMAGES, ADE20K_IMAGES, ADE20K_CLASSES = 5000, 2000, 150
WIDE_BUCKET = 100
WIDE_BUCKETS = (
    "--trainer.strategy=lightning.pytorch.strategies.DDPStrategy", f"--trainer.strategy.bucket_cap_mb={WIDE_BUCKET}"
)  # fmt: skip
MARKS = ("<!-- scale-out -->", "<!-- /scale-out -->")


@dataclass(frozen=True)
class Call:
    """One collective call of one process.

    Attributes:
        name: c10d's name of it, such as `allreduce_`.
        dtype: Type of its tensors.
        size: Bytes that this process contributes.
    """

    name: str
    dtype: str
    size: int


class Traffic(TorchDispatchMode):
    """Notes every collective call while it is active.

    Attributes:
        calls: The calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Notes a call, and makes it."""
        if func.namespace == "c10d":
            name = func._schema.name.removeprefix("c10d::")
            tensors = _tensors(args[1] if "gather" in name else args[0])  # gathers: outputs come before inputs
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            self.calls.append(Call(name, str(tensors[0].dtype) if tensors else "", size))
        return func(*args, **(kwargs or {}))


def _tensors(argument: Any) -> list[Tensor]:
    if isinstance(argument, Tensor):
        return [argument]
    return [tensor for part in argument for tensor in _tensors(part)] if isinstance(argument, list | tuple) else []


class StepTraffic(pl.Callback):
    """Writes down what one training step sends, from its first hook to that of the next step."""

    def __init__(self) -> None:
        self.traffic: Traffic | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Begins with the step, and ends with it."""
        if trainer.global_step == MEASURED_STEP and self.traffic is None:
            self.traffic = Traffic()
            self.traffic.__enter__()
        elif trainer.global_step > MEASURED_STEP and self.traffic is not None:
            self.traffic.__exit__(None, None, None)
            if trainer.is_global_zero:
                learnt = sum(parameter.numel() for parameter in pl_module.parameters() if parameter.requires_grad)
                calls = [vars(call) for call in self.traffic.calls]
                Path(trainer.default_root_dir, "traffic.json").write_text(json.dumps([learnt, calls]))
            self.traffic = None


@dataclass(frozen=True)
class Step:
    """What one training step of a recipe sends.

    Attributes:
        recipe: Path below `configs`.
        learnt: Trainable parameters.
        calls: The collective calls of process 0.
    """

    recipe: str
    learnt: int
    calls: list[Call]

    def row(self) -> list[str]:
        """The table's row."""
        gradients = [call.size for call in self.calls if call.name == "allreduce_" and call.dtype == "torch.float32"]
        statistics = [call.size for call in self.calls if call.name == "broadcast_" and call.size > 1000]
        rest = sum(call.size for call in self.calls) - sum(gradients) - sum(statistics)
        sizes = ", ".join(f"{size / 2**20:.1f}" for size in gradients)
        numbers = [f"{number:,}" for number in (self.learnt, sum(gradients), sum(statistics), rest)]
        return [self.recipe, *numbers, f"{len(gradients)}: {sizes}"]


def measure_step(recipe: str, *options: str) -> Step:
    """Runs a recipe in two processes for four steps on small images, with as many classes as it is made for."""
    task = recipe.partition("/")[0]
    data = "coco" if task == "detect" else "ade20k"
    with tempfile.TemporaryDirectory() as folder:
        write_shapes(Path(folder), seed=0, train=16, val=2)
        if "quickstart" not in recipe:
            (_pretend_coco if task == "detect" else _pretend_ade20k)(Path(folder))
        backbone = [f"--model.backbone={BACKBONES[recipe]}"] if recipe in BACKBONES else []
        command = [
            sys.executable, "-m", f"tasks.{task}", "fit", f"--config=configs/{recipe}.yaml",
            f"--data=configs/data/shapes_{task}.yaml", f"--data.root={folder}/{data}", "--data.batch_size=2",
            "--data.num_workers=0", *backbone, "--model.backbone.weights=null",
            "--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_steps=4",
            "--trainer.limit_val_batches=0", "--trainer.num_sanity_val_steps=0", "--trainer.log_every_n_steps=1",
            "--trainer.callbacks+=benchmarks.scale_out.StepTraffic", "--wandb.mode=disabled", f"--runs={folder}/runs",
            *options,
        ]  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            sys.exit(f"error: {recipe} ended with {answer.returncode}\n{answer.stdout}{answer.stderr}")
        (path,) = Path(folder).glob("runs/*/*/traffic.json")
        learnt, calls = json.loads(path.read_text())
    return Step(recipe, learnt, [Call(**call) for call in calls])


def _pretend_coco(folder: Path) -> None:
    """Gives the sample annotations as many categories as COCO has."""
    for path in folder.glob("coco/**/*.json"):
        content = json.loads(path.read_text())
        known = {category["id"] for category in content["categories"]}
        more = [number for number in range(1, 1000) if number not in known][: CLASSES - len(known)]
        content["categories"] += [{"id": number, "name": f"class {number}"} for number in more]
        path.write_text(json.dumps(content))


def _pretend_ade20k(folder: Path) -> None:
    """Gives the sample masks as many class names as ADE20K has."""
    (path,) = folder.glob("ade20k/objectInfo*.csv")
    lines = path.read_text().splitlines()
    more = (f"{number},0.001,1,1,0,class {number}" for number in range(len(lines), ADE20K_CLASSES + 1))
    path.write_text("\n".join([*lines, *more]) + "\n")


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation sends at its end.

    Attributes:
        name: What is scored.
        images: Images of the split.
        calls: The collective calls of process 1, which has seen half of them.
    """

    name: str
    images: int
    calls: list[Call]

    def row(self) -> list[str]:
        """The table's row."""
        sent = sum(call.size for call in self.calls)
        largest = max(self.calls, key=lambda call: call.size)
        return [self.name, f"{self.images:,}", largest.name.strip("_"), f"{sent:,}"]


def measure_evaluations() -> list[Evaluation]:
    """Scores splits of the sizes of COCO's and ADE20K's, half of them in each of two processes."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_evaluate, (folder,), nprocs=2)
        return [
            Evaluation(name, images, [Call(**call) for call in calls])
            for name, images, calls in json.loads(Path(folder, "calls.json").read_text())
        ]


def _evaluate(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    truth, found = make_problem(COCO_IMAGES, with_masks=False)
    boxes = COCODetectionMetric([f"class {number}" for number in range(CLASSES)])
    for prediction, target in as_batches(truth, found, COCO_IMAGES)[rank::2]:
        boxes.update([prediction], [target])
    masks = SegmentationMetric([f"class {number}" for number in range(ADE20K_CLASSES)])
    masks.update([torch.zeros(1, 1, dtype=torch.uint8)], [torch.zeros(1, 1, dtype=torch.uint8)])
    answers = []
    for name, images, metric in (
        ("boxes, 80 classes, 100 detections an image", COCO_IMAGES, boxes),
        ("masks, 150 classes", ADE20K_IMAGES, masks),
    ):
        with Traffic() as traffic:
            metric.compute()
        answers.append((name, images, [vars(call) for call in traffic.calls]))
    if rank == 1:
        Path(folder, "calls.json").write_text(json.dumps(answers))
    dist.destroy_process_group()


STEP_COLUMNS = (
    "recipe", "trainable parameters", "gradients, bytes", "statistics, bytes", "the rest, bytes", "buckets, MiB"
)  # fmt: skip
EVALUATION_COLUMNS = ("evaluation", "images", "collective", "bytes a process sends for half of them")


def section(steps: list[Step], wide: Step, evaluations: list[Evaluation]) -> str:
    """The measured part of the page."""
    return "\n\n".join(
        [
            table(STEP_COLUMNS, [step.row() for step in steps]),
            f"{wide.recipe} with `bucket_cap_mb: {WIDE_BUCKET}`: {wide.row()[-1]} MiB.",
            table(EVALUATION_COLUMNS, [evaluation.row() for evaluation in evaluations]),
        ]
    )


def table(columns: Sequence[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Measures, and prints or writes the section."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write between the marks of this file instead")
    options = parser.parse_args()
    steps = []
    for recipe in RECIPES:
        steps.append(measure_step(recipe))
        sys.stderr.write("  ".join(steps[-1].row()) + "\n")
    text = section(steps, measure_step(RECIPES[-1], *WIDE_BUCKETS), measure_evaluations())
    if options.write is None:
        sys.stdout.write(text + "\n")
        return
    before, _, rest = options.write.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    options.write.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
