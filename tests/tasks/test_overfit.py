"""Detectors of every kind learn 8 photographs by heart, from random weights: targets, pasting and scores agree."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tasks.metrics.coco_backends import COCO_NUMBERS
from tests.tasks.running import learn_by_heart, run

TWO_STAGES = (
    "--data.pipeline.height=256",
    "--data.pipeline.width=256",
    "--model.detector.channels=64",
    "--model.detector.rpn.anchor_scale=3",
    "--model.detector.rpn.samples=128",
    "--model.detector.rpn.candidates_train=500",
    "--model.detector.rpn.proposals_train=500",
    "--model.detector.box_head.fc_channels=256",
    "--model.detector.box_head.samples=128",
)
SSDLITE = (
    "--trainer.max_epochs=300",
    "--data.batch_size=4",
    "--data.pipeline.height=320",
    "--data.pipeline.width=320",
    "--data.pipeline.keep_ratio=false",
    "--model.backbone.last_conv=true",
    "--model.channels_last=true",
    "--model.detector=tasks.detectors.FocalSSDLite320",
)
HALO_HYBRID = (
    "--trainer.max_epochs=100",
    "--data.batch_size=4",
    "--model.backbone=backbones.ResNet",
    "--model.backbone.depth=26",
    "--model.backbone.width_per_group=16",
    "--model.backbone.mixer=attention.HaloAttention",
    "--model.backbone.mixer_stages=[4]",
    "--model.detector=tasks.detectors.FasterRCNN",
    *TWO_STAGES,
)
ELSA_SWIN = (
    "--trainer.max_epochs=60",
    "--data.batch_size=2",
    "--model.parameter_rules.base_batch_size=2",
    "--model.backbone=backbones.ELSASwin",
    "--model.backbone.embed_channels=32",
    "--model.backbone.depths=[1,1,2,1]",
    "--model.backbone.drop_path=0",
    "--model.detector=tasks.detectors.MaskRCNN",
    *TWO_STAGES,
    "--model.detector.mask_head.channels=64",
    "--model.detector.mask_head.convs=2",
)


@pytest.fixture(scope="module")
def photographs(shared_data: Callable[[str], Path]) -> Path:
    return shared_data("coco-free")


def overfit(photographs: Path, runs: Path, *options: str) -> Path:
    """Learns the 8 photographs with the lowest ids and scores them, in a process of its own; gives the run's folder."""
    return learn_by_heart("detect", "overfit_coco", photographs, runs, "--trainer.check_val_every_n_epoch=20", *options)


def best_scores(folder: Path) -> dict[str, float]:
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("options", [SSDLITE, HALO_HYBRID], ids=["ssdlite_ca_mobilenet_v2", "faster_rcnn_halo_hybrid"])
def test_boxes_are_learnt_by_heart(photographs: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    assert best_scores(overfit(photographs, tmp_path, *options))["val/mAP"] >= 0.5


@pytest.mark.slow
def test_masks_are_learnt_by_heart_and_written_as_they_are_scored(photographs: Path, tmp_path: Path) -> None:
    folder = overfit(photographs, tmp_path, *ELSA_SWIN)
    scores = best_scores(folder)
    assert scores["val/mAP"] >= 0.5 and scores["val/mask_mAP"] >= 0.4
    chosen = [f"--config={folder / 'config.fit.yaml'}", f"--ckpt_path={folder / 'checkpoints' / 'best.ckpt'}"]
    code, output = run("detect", ["predict", *chosen])
    assert code == 0, output
    written = folder / "predictions"
    assert len(list((written / "pictures").glob("*.png"))) == 8
    truth = COCO(str(photographs / "annotations" / "instances_train2017.json"))
    for prefix, kind in (("", "bbox"), ("mask_", "segm")):
        rows = json.loads((written / "predictions.json").read_text())
        for row in rows:  # one that has both would have the area of its box
            del row["segmentation" if kind == "bbox" else "bbox"]
        evaluation = COCOeval(truth, truth.loadRes(rows), kind)
        evaluation.params.imgIds = sorted(truth.imgs)[:8]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        expected = [scores[f"val/{prefix}{name}"] for name in COCO_NUMBERS]
        found = np.where(evaluation.stats == -1, np.nan, evaluation.stats)
        assert found == pytest.approx(np.array(expected, float), nan_ok=True)
