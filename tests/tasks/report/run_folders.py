"""Run folders as a training leaves them, without the training: every file by the writer that writes it there."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from tasks.callbacks.pictures import save_picture
from tasks.comparison import WeightedAP
from tasks.metrics.image_areas import ImageAreas
from tasks.metrics.matches import IOUS, Matches
from tasks.run.clock import RunClock
from tasks.run.detection_file import DetectionEvaluation
from tasks.run.evaluation_file import EVALUATION, SegmentationEvaluation, hash_of
from tasks.run.files import write_text
from tasks.run.record import RunRecord
from tasks.run.table import CSVMetrics

CLASSES = ("disk", "square", "star", "cross")
COSTS = {
    "none": (405_867, 116_348_000),
    "SqueezeExcitation": (441_203, 116_402_128),
    "CoordinateAttention": (453_675, 116_931_680),
    "CBAM": (448_011, 118_020_544),
    "ECA": (405_955, 116_390_312),
}
"""Parameters and MACs of a network with each attention."""
EPOCHS, STEPS, BATCH, SECONDS_PER_STEP = 4, 6, 4, 1.5


def write_run(
    folder: Path,
    task: str = "detect",
    attention: str = "none",
    seed: int = 0,
    quality: float = 0.5,
    images: int = 30,
    data: int = 0,
    record: RunRecord | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Writes the folder of a run.

    Args:
        folder: Where to.
        task: `detect` or `segment`.
        attention: One of `COSTS`.
        seed: Seed of the run: the scores scatter with it.
        quality: Share of what is found.
        images: Images that are scored.
        data: Which data set: its ground truth follows from this number.
        record: How the run stands; finished by default.
        options: Further options, such as `lr=0.1`.

    Returns:
        The summary.
    """
    name = next(iter(options), "")
    scores, data_hash = _evaluate(
        folder, task, np.random.default_rng(data), np.random.default_rng([seed, *attention.encode()]), quality, images
    )
    headline = "mAP" if task == "detect" else "mIoU"
    parameters, macs = COSTS[attention]
    summary = {
        "backbone": "MobileNetV2 x0.25",
        "attention": attention,
        "head": "FCOS" if task == "detect" else "UPerHead",
        "parameters": parameters,
        "MACs": macs,
        "image_size": "160x160",
        "task": task,
        "headline": f"val/{headline}",
        "direction": "max",
        "beside": "",
        "seed": seed,
        "recipe": "quickstart",
        "git": "0123456789ab",
        "torch": "2.14.1",
        "versions": "attndense 0.1.0, timm 1.0.20",
        "device": "a processor",
        "processes": 1,
        "data": "COCO",
        "data_root": "data/shapes",
        "classes": len(CLASSES),
        **{f"val/{score}": value for score, value in scores.items()},
        "epoch": EPOCHS - 1,
        "step": EPOCHS * STEPS,
        "data_hash": data_hash,
        "start": "scratch",
        "resumed_at": "",
        "peak_memory_MB": 900.5,
        "seconds": 30.0 + seed,
        "run": str(folder),
    }
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    command = ["fit", "--config", f"configs/{task}/quickstart.yaml", "--name", folder.name]
    saved = RunRecord(command, status="finished", step=EPOCHS * STEPS, epoch=EPOCHS) if record is None else record
    replace(saved, command=command).write(folder)
    model = {"backbone": {"class_path": "backbones.MobileNetV2", "init_args": {"width": 0.25, "attention": attention}}}
    content = {
        "seed_everything": seed,
        "model": model | {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.002, **options}}},
        "data": {"class_path": "datamodules.COCO", "init_args": {"root": str(folder.parent), "batch_size": BATCH}},
        "name": name or folder.name,
    }
    write_text(folder / "config.fit.yaml", yaml.safe_dump(content))
    facts = {"annotations": str(folder.parent), "images": images, "objects": 3 * images + data, "findings": []}
    write_text(folder / "data.json", json.dumps({"training": facts, "validation": facts}, indent=2) + "\n")
    _log(folder, headline, scores[headline])
    for number in (1, 2):
        save_picture(
            torch.full((3, 40, 80), 60 + 40 * number + 9 * seed, dtype=torch.uint8), folder / f"pictures/{number}.png"
        )
    return summary


def _evaluate(
    folder: Path, task: str, truth: np.random.Generator, chance: np.random.Generator, quality: float, images: int
) -> tuple[dict[str, float], str]:
    files = tuple(f"val/{number:04}.jpg" for number in range(images))
    if task == "segment":
        areas = _areas(truth, chance, quality, images)
        evaluation = SegmentationEvaluation(CLASSES, files, areas, np.zeros((len(CLASSES),) * 2, np.int64))
        evaluation.write(folder / EVALUATION)
        return evaluation.scores(), evaluation.data_hash()
    matches = _matches(truth, chance, quality, images)
    DetectionEvaluation(CLASSES, files, tuple(range(1, images + 1)), {"bbox": matches}).write(folder / EVALUATION)
    table = WeightedAP(matches, images).table(np.ones(images, np.int64))  # (K, 10)
    whole = {"mAP": table.mean(), "mAP50": table[:, 0].mean(), "mAP75": table[:, 5].mean()}
    classes = {f"AP/{name}": value for name, value in zip(CLASSES, table.mean(axis=1), strict=True)}
    scores = {name: float(value) for name, value in (whole | classes | {"images": images}).items()}
    return scores, hash_of(CLASSES, files, matches.truth_counts)


def _areas(truth: np.random.Generator, chance: np.random.Generator, quality: float, images: int) -> ImageAreas:
    shape = images, len(CLASSES)
    annotated = truth.integers(50, 400, shape)
    found = np.clip(chance.normal(quality, 0.15, shape) + chance.normal(0, 0.01), 0, 1)
    return ImageAreas((annotated * found).astype(np.int64), annotated, annotated + chance.integers(0, 60, shape))


def _matches(truth: np.random.Generator, chance: np.random.Generator, quality: float, images: int) -> Matches:
    """Of every object one detection, which is right up to an IoU by chance, and as many that are wrong."""
    counts = truth.integers(1, 4, (len(CLASSES), images))
    labels, places = (np.repeat(axis.ravel(), counts.ravel()) for axis in np.indices(counts.shape))
    reach = chance.normal(quality + chance.normal(0, 0.01), 0.2, len(labels)) * IOUS
    right = np.arange(IOUS)[:, None] < reach
    scores = np.concatenate([chance.uniform(0.3, 1, len(labels)), chance.uniform(0, 0.6, len(labels))]).astype(
        np.float32
    )
    labels, images_of = np.tile(labels, 2), np.tile(places, 2)
    order = np.lexsort((-scores, labels))
    matched = np.concatenate([right, np.zeros_like(right)], axis=1)[:, order]
    starts: NDArray[np.int64] = np.searchsorted(labels[order], np.arange(len(CLASSES) + 1))
    truth_labels, truth_images = np.nonzero(counts)
    return Matches(
        starts,
        scores[order].astype(np.float64),
        images_of[order],
        matched,
        np.zeros_like(matched),
        truth_images,
        truth_labels,
        counts[truth_labels, truth_images],
    )


def _log(folder: Path, headline: str, best: float) -> None:
    clock = RunClock()
    table = CSVMetrics(folder, clock=clock)
    for step in range(EPOCHS * STEPS):
        clock.go_on_from(SECONDS_PER_STEP * (step + 1))
        table.log_metrics({"train/loss": 2 / (1 + step), "epoch": step // STEPS, "perf/step_p50": 0.1}, step)
        if step % STEPS == STEPS - 1:
            table.log_metrics({f"val/{headline}": best * (step + 1) / (EPOCHS * STEPS)}, step)
    table.save()
