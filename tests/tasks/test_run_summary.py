"""What runs are compared by."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from attention import CBAM, IdentityStart, SqueezeExcitation
from backbones import ResNet, build_backbone
from tasks import detect, segment
from tasks.run.summary import attention_names

ROOT = Path(__file__).parents[2]
MAINS = {"detect": detect.main, "segment": segment.main}
DATA = {"detect": "coco", "segment": "ade20k"}


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (lambda: ResNet(18), "none"),
        (lambda: ResNet(18, SqueezeExcitation), "SqueezeExcitation"),
        (lambda: ResNet(18, lambda channels: IdentityStart(channels, CBAM)), "CBAM, identity start"),
        (lambda: build_backbone("halo2botnet50ts"), "HaloAttention+BottleneckAttention"),
        (lambda: build_backbone("lavit_t"), "VanillaAttention+LessAttention"),
        (lambda: build_backbone("swin_t"), "none"),
    ],
)
def test_attention_is_named(network: nn.Module, names: str) -> None:
    with torch.device("meta"):
        assert attention_names(network()) == names


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_published_costs_of_the_quickstart_are_those_of_the_code(task: str, shapes: Path, tmp_path: Path) -> None:
    MAINS[task](
        [
            "fit",
            f"--config={ROOT}/configs/{task}/quickstart.yaml",
            f"--data.root={shapes / DATA[task]}",
            "--data.num_workers=0",
            "--data.batch_size=2",
            "--trainer.max_steps=1",
            "--trainer.limit_val_batches=0",
            "--pictures.images=0",
            "--wandb.mode=disabled",
            f"--runs={tmp_path}",
        ]
    )
    found = json.loads((tmp_path / task / "quickstart" / "summary.json").read_text())
    published = json.loads((ROOT / "docs" / "results" / "quickstart" / task / "summary.json").read_text())
    for fact in ("backbone", "attention", "parameters", "MACs", "image_size"):
        assert found[fact] == published[fact]
