"""Masks from a detector to scores, summary, written predictions and pictures, through a task's own loops."""

import json
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn
from torchvision.io import read_image

from backbones import MobileNetV2
from tasks import compare
from tasks.batch import Batch
from tasks.callbacks import DetectionPictures, DetectionWriter
from tasks.detection import DetectionOptions, DetectionTask
from tasks.detectors.base import Detections, Detector
from tasks.detectors.instance_masks import encode_masks
from tasks.headline import Headline
from tasks.metrics import packed_images
from tasks.metrics.coco_backends import COCO_NUMBERS
from tasks.run.summary import RunSummary

NAMES, CATEGORY_IDS = ["disk", "square"], [4, 9]
SIZES = {3: (60, 90), 8: (70, 50)}
TRUTHS = {3: [(0, (10, 5, 60, 45)), (1, (30, 20, 80, 55))], 8: [(1, (5, 8, 40, 60))]}
FOUND = {
    3: [(0, 0.9, (10, 5, 60, 45)), (1, 0.7, (30, 20, 80, 55)), (1, 0.4, (2, 2, 30, 9))],
    8: [(1, 0.8, (5, 8, 40, 60))],
}
"""Objects (label, xyxy) and detections (label, score, xyxy) of two images. All boxes are right but one; the mask of the
square in image 8 is a half of its box."""


class Planned(Detector):
    """Finds what is planned for an image; the map of a box, 6 x 6, is a whole one, and in image 8 the upper half."""

    with_masks: ClassVar[bool] = True

    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, batch: Batch) -> Detections:
        features = self.backbone(batch["image"].float() / 255)
        assert not self.training and torch.isfinite(features[-1]).all()
        return [self.of_image(target) for target in batch["targets"] if "image_id" in target]

    def of_image(self, target: dict[str, Any]) -> dict[str, Any]:
        labels, scores, boxes = map(torch.tensor, zip(*FOUND[target["image_id"]], strict=True))
        maps = torch.ones(len(boxes), 6, 6)
        maps[:, 3 if target["image_id"] == 8 else 6 :] = 0
        masks = encode_masks(maps, boxes, tuple(target["original_size"].tolist()))
        return {"boxes": boxes.float(), "scores": scores, "labels": labels, "masks": masks}

    def class_tensors(self) -> dict[str, None]:
        return {}


def rectangle(image_id: int, box: tuple[int, int, int, int]) -> Any:
    mask = np.zeros(SIZES[image_id], np.uint8, order="F")
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return coco_mask.encode(mask)


def target_of(image_id: int) -> dict[str, Any]:
    labels, boxes = zip(*TRUTHS[image_id], strict=True)
    corners = np.array(boxes, np.float64)
    sides = corners[:, 2:] - corners[:, :2]
    truth = {
        "image_id": image_id,
        "original_size": SIZES[image_id],
        "boxes": np.concatenate([corners[:, :2], sides], axis=1),
        "labels": np.array(labels),
        "area": sides.prod(axis=1),
        "iscrowd": np.zeros(len(labels), bool),
        "masks": [rectangle(image_id, box) for box in boxes],
    }
    size = torch.tensor(SIZES[image_id])
    return {"image_id": image_id, "file_name": f"{image_id}.jpg", "original_size": size, "ground_truth": truth}


def batch_of(*image_ids: int, repeated: bool = False) -> Batch:
    return {
        "image": torch.full((len(image_ids), 3, 96, 96), 90, dtype=torch.uint8),
        "size": torch.tensor([SIZES[image_id] for image_id in image_ids]),
        "targets": [target_of(image_id) for image_id in image_ids],
        "repeated": torch.tensor([repeated] * len(image_ids)),
    }


class Batches(torch.utils.data.Dataset[Batch]):
    """Ready batches, one of which only fills up a step."""

    def __init__(self) -> None:
        self.batches = [batch_of(8, 3), batch_of(3, repeated=True)]
        self.paths = [Path("3.jpg"), Path("8.jpg")]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return self.batches[index]


def a_task(**options: Any) -> DetectionTask:
    return DetectionTask(
        DetectionOptions(
            backbone=MobileNetV2(0.25),
            detector=Planned,
            class_names=NAMES,
            category_ids=CATEGORY_IDS,
            image_size=(64, 64),
            **options,
        )
    )


def a_trainer(folder: Path, *callbacks: pl.Callback) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
    )


@pytest.fixture(scope="module")
def loader() -> torch.utils.data.DataLoader[Batch]:
    return torch.utils.data.DataLoader(Batches(), batch_size=None)


def test_boxes_and_masks_are_scored_shown_and_written(
    loader: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[bytes] = []
    check = packed_images.mask_areas
    monkeypatch.setattr(
        packed_images, "mask_areas", lambda coded, pixels: checked.extend(coded) or check(coded, pixels)
    )
    task = a_task()
    trainer = a_trainer(tmp_path, RunSummary("detect", "fit", 0), DetectionPictures(images=5))
    trainer.validate(task, loader, verbose=False)
    a_trainer(tmp_path, DetectionWriter()).predict(task, loader)
    wanted = {f"val/{name}": value for name, value in scores_of_file(tmp_path).items()} | {"val/images": 2.0}
    assert sorted(task.results) == sorted(wanted) and task.results == pytest.approx(wanted, nan_ok=True)
    assert task.results["val/mAP"] > task.results["val/mask_mAP"] > 0.4
    logged = {f"val/{name}" for name in task.metrics.scores}
    assert logged == set(trainer.callback_metrics) == {name for name in task.results if "AP/" not in name}
    assert len(checked) == 3  # annotated masks; those of the encoder are believed

    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["headline"], summary["beside"]) == ("val/mAP", "val/mask_mAP")
    assert summary["val/mask_AP/square"] == task.results["val/mask_AP/square"]
    capsys.readouterr()
    compare.main([str(tmp_path)])
    shown = "mAP {val/mAP:.3f}, mask_mAP {val/mask_mAP:.3f}".format(**task.results)
    assert f"| {shown} |" in capsys.readouterr().out

    # Left the annotated square, right the predicted half of it.
    picture = read_image(str(tmp_path / "pictures" / "8.png")).int()
    zoom = (picture.shape[-1] - 8) // 100
    for x, y, tinted in ((20, 25, True), (20, 50, True), (20 + 50, 25, True), (20 + 50, 50, False)):
        gap = 8 * (x >= 50)
        assert bool((picture[:, zoom * y, zoom * x + gap] - 90).abs().max() > 20) is tinted, (x, y)
    assert read_image(str(tmp_path / "predictions" / "pictures" / "8.png")).shape[-1] == zoom * 50


def scores_of_file(folder: Path) -> dict[str, float]:
    """The numbers that pycocotools gives the written predictions."""
    truths = []
    for image_id, objects in TRUTHS.items():
        for label, (left, top, right, bottom) in objects:
            box, area = [left, top, right - left, bottom - top], (right - left) * (bottom - top)
            mask = rectangle(image_id, (left, top, right, bottom))
            truth = {"id": len(truths) + 1, "image_id": image_id, "category_id": CATEGORY_IDS[label], "iscrowd": 0}
            truths.append(truth | {"bbox": box, "area": area, "segmentation": mask})
    annotated, numbers, file = COCO(), {}, folder / "predictions" / "predictions.json"
    annotated.dataset = {
        "images": [{"id": image_id, "height": size[0], "width": size[1]} for image_id, size in SIZES.items()],
        "categories": [{"id": number, "name": name} for number, name in zip(CATEGORY_IDS, NAMES, strict=True)],
        "annotations": truths,
    }
    annotated.createIndex()
    masks_alone = [{**row, "bbox": []} for row in json.loads(file.read_text())]  # else an area is that of the box
    for prefix, kind, results in (("", "bbox", str(file)), ("mask_", "segm", masks_alone)):
        evaluation = COCOeval(annotated, annotated.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        stats = np.where(evaluation.stats == -1, np.nan, evaluation.stats)
        numbers |= dict(zip([f"{prefix}{name}" for name in COCO_NUMBERS], stats.tolist(), strict=True))
        precision = evaluation.eval["precision"][..., 0, 2]
        numbers |= {f"{prefix}AP/{name}": precision[:, :, k].mean() for k, name in enumerate(NAMES)}
    return numbers


def test_the_headline_is_chosen_by_an_option() -> None:
    assert a_task().headline == Headline("mAP")
    task = a_task(headline="mask_mAP")
    assert (task.headline, task.beside_headline) == (Headline("mask_mAP"), ["mAP"])
    assert task.saved_options["headline"] == "mask_mAP"
    with pytest.raises(ValueError, match=r"the headline mask_AP is none of mAP, .*mask_mAP, .*images"):
        a_task(headline="mask_AP")
