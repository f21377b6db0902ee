"""Segmentors of three kinds learn 8 photographs by heart, from random weights: labels, losses and scores agree."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tasks.running import learn_by_heart

CA_MOBILENET_V2_DEEPLABV3 = (
    "--trainer.max_epochs=320",
    "--model.optimizer.lr=0.002",
    "--model.backbone.output_stride=16",
    "--model.segmentor.decode_head={type: ASPPHead, channels: 64, dilations: [1, 6, 12, 18], dropout_ratio: 0.0}",
    "--model.segmentor.neck=null",
)
RESNET18_CAA = (
    "--trainer.max_epochs=240",
    "--model.optimizer.lr=0.002",
    "--model.backbone=backbones.ResNet",
    "--model.backbone.depth=18",
    "--model.backbone.output_stride=8",
    "--model.segmentor.decode_head={type: CAAHead, channels: 64, dropout_ratio: 0.0}",
    "--model.segmentor.neck=null",
)
ELSA_SWIN_UPERNET = (
    "--trainer.max_epochs=240",
    "--model.optimizer.lr=0.002",
    "--data.batch_size=2",
    "--model.parameter_rules.base_batch_size=2",
    "--model.backbone=backbones.ELSASwin",
    "--model.backbone.embed_channels=32",
    "--model.backbone.depths=[1,1,2,1]",
    "--model.backbone.drop_path=0",
    "--model.segmentor.decode_head={type: UPerHead, channels: 64, pool_scales: [1, 2, 3, 6], dropout_ratio: 0.0}",
    "--model.segmentor.neck=null",
)
NETWORKS = {
    "ca_mobilenet_v2_deeplabv3": CA_MOBILENET_V2_DEEPLABV3,
    "resnet18_caa": RESNET18_CAA,
    "elsa_swin_upernet": ELSA_SWIN_UPERNET,
}


@pytest.mark.slow
@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_label_maps_are_learnt_by_heart(
    shared_data: Callable[[str], Path], tmp_path: Path, options: tuple[str, ...]
) -> None:
    photographs, every = shared_data("coco-sem-free"), "--trainer.check_val_every_n_epoch=40"
    folder = learn_by_heart("segment", "overfit_ade20k", photographs, tmp_path, every, *options)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["val/mIoU"] >= 0.6
