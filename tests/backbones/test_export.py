"""Backbones taken out of the checkpoints of real, short runs."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import backbones
from attention import CoordinateAttention
from tasks import detect, segment

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("task", "main", "data"),
    [("detect", detect.main, "coco"), pytest.param("segment", segment.main, "ade20k", marks=pytest.mark.slow)],
)
def test_backbone_of_a_run_with_averaged_weights(task, main, data, shapes, tmp_path, caplog):
    main(
        [
            "fit",
            f"--config={ROOT}/configs/{task}/quickstart.yaml",
            f"--data.root={shapes / data}",
            "--data.batch_size=4",
            "--data.num_workers=0",
            "--model.backbone.width=0.25",
            "--trainer.max_steps=2",
            "--trainer.limit_val_batches=0",
            "--wandb.mode=disabled",
            "--ema_decay=0.5",
            f"--runs={tmp_path}",
            "--name=test",
        ]
    )
    run, out = tmp_path / task / "test" / "checkpoints" / "last.ckpt", tmp_path / "backbone.safetensors"
    caplog.clear()
    backbones.export_weights(str(run), str(out))
    checkpoint, exported = torch.load(run, weights_only=True), load_file(out)
    prefix = "model.backbone."
    averaged, last = (
        {name.removeprefix(prefix): value for name, value in checkpoint[key].items() if name.startswith(prefix)}
        for key in ("state_dict", "current_model_state")
    )
    assert exported.keys() == averaged.keys()
    assert all(torch.equal(value, averaged[name]) for name, value in exported.items())
    assert not all(torch.equal(value, last[name]) for name, value in exported.items())
    for weights in (str(out), str(run)):
        backbone = backbones.MobileNetV2(0.25, CoordinateAttention, weights=weights)
        assert all(torch.equal(value, averaged[name]) for name, value in backbone.state_dict().items())
    assert not [record for record in caplog.records if record.name.startswith("backbones.") and record.levelno > 20]
