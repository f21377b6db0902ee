"""What runs are compared by."""

import csv
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import nn

from attention import CBAM, IdentityStart, SqueezeExcitation
from backbones import ResNet, build_backbone, load_weights
from tasks import detect, segment
from tasks.metrics import COCODetectionMetric
from tasks.run.detection_file import ScoredDetections
from tasks.run.summary import attention_names
from tests.tasks.conftest import Command
from tests.tasks.metrics.test_metric_coco import one_object, perfect

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


def test_a_run_names_its_data_recipe_machine_and_past(
    finished: Callable[[str], Path], command: Command, trained: Callable[[str], Path]
) -> None:
    first = json.loads((trained("detect") / "summary.json").read_text())
    assert first["recipe"] == "quickstart" and first["data"] == "COCO" and first["classes"] == 6
    assert Path(first["data_root"]).name == "coco" and first["device"] and first["peak_memory_MB"] > 50
    assert f"lightning {version('lightning')}, " in first["versions"] and first["start"] == "scratch"
    assert first["resumed_at"] == "" and len(first["data_hash"]) == 16
    folder = finished("detect")
    command("detect", "fit", "--resume=auto", "--trainer.max_epochs=2", "--keep_evaluation=false")
    again = json.loads((folder / "summary.json").read_text())
    assert again["resumed_at"] == "3" and again["start"] == "scratch" and again["exit"] == first["exit"] == "finished"
    record = json.loads((folder / "run.json").read_text())
    chain = [(start["step"], start["last_step"], start["reason"]) for start in record["starts"]]
    assert chain == [(0, 3, "finished"), (3, 6, "finished")]
    for start in record["starts"]:
        assert start["device"] == first["device"] and start["host"] and start["time"] <= start["ended"]
    with (folder / "metrics.csv").open() as lines:
        seconds = [float(row["seconds"]) for row in csv.DictReader(lines)]
    assert len(seconds) == 6 and seconds == sorted(seconds) and 0 < seconds[0] < seconds[-1] <= again["seconds"] + 0.1
    for name in ("data_hash", "data", "recipe", "device"):
        assert again[name] == first[name]
    assert (folder / "evaluation.npz").read_bytes() == (trained("detect") / "evaluation.npz").read_bytes()


def test_the_hash_of_the_data_is_that_of_images_and_ground_truth() -> None:
    def hashed(classes: str = "ab", height: int = 50, left: float = 10, file: str = "x/1.jpg") -> str:
        target = one_object(1) | {"original_size": (height, 50), "boxes": torch.tensor([[left, 10, 20, 20.0]])}
        metric = COCODetectionMetric([*classes])
        metric.update(perfect([target]), [target])
        metric.compute()
        files = [f"/somewhere/{file}"]
        return ScoredDetections(metric.class_names, metric.scored, files, ("bbox",), "hotcoco").data_hash()

    assert hashed() == hashed(file="y/1.jpg")
    assert len({hashed(), hashed("ac"), hashed(height=51), hashed(left=11), hashed(file="2.jpg")}) == 5


def test_a_backbone_says_how_it_began(tmp_path: Path) -> None:
    plain, attended = ResNet(18), ResNet(18, SqueezeExcitation)
    assert plain.start == "scratch"
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    torch.save(attended.state_dict(), tmp_path / "attended.pth")
    load_weights(attended, str(tmp_path / "plain.pth"))
    assert attended.start == "pretrained host"
    load_weights(attended, str(tmp_path / "attended.pth"))
    assert attended.start == "pretrained"
