"""The options of a task, and what a checkpoint keeps of them: in this format and in the one before."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from backbones import MobileNetV2
from tasks.detection import DetectionOptions, DetectionTask
from tasks.detectors import FCOS
from tasks.errors import TaskError
from tasks.headline import Headline
from tasks.metrics import COCODetectionMetric, Metric, NamedMetrics
from tasks.run.resume import newest_good_checkpoint
from tasks.segmentation import SegmentationTask
from tasks.weights import NewerCheckpoint, read_checkpoint
from tests.tasks.conftest import SIDE
from tests.tasks.running import content_of

Command = Callable[..., Path]
NAMES = ["disk", "square", "triangle", "star", "ring", "cross"]
FORMAT_1 = {
    "_instantiator": "lightning.pytorch.cli.instantiate_module",
    "backbone": {
        "class_path": "backbones.MobileNetV2",
        "init_args": {
            "attention": {
                "class_path": "attention.CoordinateAttention",
                "init_args": {"directions": "both", "min_channels": 8, "reduction": 32},
            },
            "checkpointing": False,
            "frozen_stages": 0,
            "last_conv": False,
            "norms": "train",
            "output_stride": 32,
            "tap_expansion": False,
            "weights": None,
            "width": 0.25,
        },
    },
    "category_ids": [1, 2, 4, 7, 11, 13],
    "channels_last": False,
    "class_names": NAMES,
    "compile_backbone": False,
    "detector": {
        "class_path": "tasks.detectors.FCOS",
        "init_args": {
            "center_radius": 1.5,
            "channels": 64,
            "extra_levels": 0,
            "max_detections": 100,
            "nms_threshold": 0.6,
            "num_convs": 2,
            "score_threshold": 0.05,
        },
    },
    "image_size": (SIDE, SIDE),
    "lr_schedule": {
        "class_path": "tasks.schedules.Cosine",
        "init_args": {"final_factor": 0.0, "warmup_epochs": 0.0, "warmup_factor": 0.001, "warmup_steps": 50},
    },
    "optimizer": {
        "class_path": "torch.optim.AdamW",
        "init_args": {
            "amsgrad": False,
            "betas": [0.9, 0.999],
            "capturable": False,
            "differentiable": False,
            "eps": 1e-08,
            "foreach": None,
            "fused": None,
            "lr": 0.002,
            "maximize": False,
            "weight_decay": 0.05,
        },
    },
    "parameter_rules": {
        "backbone_multiplier": 1.0,
        "base_batch_size": 8,
        "decay_norms_and_biases": True,
        "layer_decay": 1.0,
    },
    "weights": None,
}
"""`hyper_parameters` as the version before wrote them for the quickstart as `conftest.py` makes it, word for word."""


def task(**options: Any) -> DetectionTask:
    return DetectionTask(
        DetectionOptions(
            backbone=MobileNetV2(0.25),
            detector=lambda backbone, classes: FCOS(backbone, classes, channels=32, num_convs=1),
            class_names=NAMES,
            category_ids=[1, 2, 4, 7, 11, 13],
            **options,
        )
    )


class TestFormats:
    def test_the_format_before_loads_validates_and_goes_on(
        self, command: Command, trained: Command, fails: Callable[..., str], tmp_path: Path
    ) -> None:
        folder = trained("detect")
        trained = json.loads((folder / "summary.json").read_text())
        content = content_of(folder / "checkpoints" / "last.ckpt")
        assert content.pop("attndense_format") == 3
        options = deepcopy(content["hyper_parameters"])
        new = {"coarsest_stride": 32, "extra_levels": "p6p7_from_p5", "finest_stride": 8}
        new |= {"ignore_crowds": False, "simple_pyramid": False}
        new |= dict.fromkeys(("head_attention", "head_mixer", "pyramid_attention", "pyramid_mixer"))
        found = options["detector"]["init_args"]
        assert {name: found.pop(name) for name in new} == new
        found["extra_levels"] = 0
        places = {"attention_stages": [1, 2, 3, 4], "attention_blocks": "every", "attention_between": None}
        places |= {"between_stages": [1, 2, 3], "mixer": None, "mixer_stages": [1, 2, 3, 4], "dilation": "a_trous"}
        places |= {"expansion_mixer": None, "expansion_stages": [2, 3, 4]}
        of_backbone = options["backbone"]["init_args"]
        assert {name: of_backbone.pop(name) for name in places} == places
        assert {"_instantiator": FORMAT_1["_instantiator"], **options} == FORMAT_1 | {
            "headline": None,
            "validation_loss": False,
            "windows": None,
            "scored_detections": 100,
            "parameter_rules": FORMAT_1["parameter_rules"] | {"decay_biases": False},
        }
        old = tmp_path / "old.ckpt"
        torch.save(content | {"hyper_parameters": FORMAT_1, "hparams_name": "kwargs"}, old)

        loaded = DetectionTask.load_from_checkpoint(old)
        assert loaded.options.category_ids == FORMAT_1["category_ids"] and loaded.image_size == (SIDE, SIDE)
        assert loaded.options.optimizer(list(loaded.parameters())).defaults["lr"] == 0.002
        assert all(torch.equal(value, content["state_dict"][name]) for name, value in loaded.state_dict().items())
        again = command("detect", "validate", f"--ckpt_path={old}", name="again")
        validated = json.loads((again / "summary.validate.json").read_text())
        scores = {name for name in trained if name.startswith("val/")}
        assert len(scores) > 12 and {name: validated[name] for name in scores} == {
            name: trained[name] for name in scores
        }
        more = ("--trainer.max_epochs=2", "--trainer.limit_val_batches=0")
        resumed = command("detect", "fit", f"--ckpt_path={old}", *more, name="resumed")
        last = content_of(resumed / "checkpoints" / "last.ckpt")
        assert (last["global_step"], last["attndense_format"]) == (6, 3)

        # A version in which the network had other parameters.
        weight = {"model.backbone.norm0.weight": torch.ones(3)}
        torch.save(content | {"state_dict": content["state_dict"] | weight}, old)
        for subcommand in ("fit", "validate"):
            message = fails("detect", subcommand, f"--ckpt_path={old}")
            assert "of another network: it has besides 1, model.backbone.norm0.weight; " in message
        held = sum(len(group["params"]) for group in content["optimizer_states"][0]["param_groups"])
        content["optimizer_states"][0]["param_groups"][0]["params"].append(held)
        torch.save(content, old)
        message = fails("detect", "fit", f"--ckpt_path={old}")
        assert f"the optimiser of the checkpoint holds {held + 1} tensors, and {held} learn here; " in message

    @pytest.mark.parametrize(("levels", "extra", "coarsest"), [(3, 0, 32), (3, 2, 128), (2, 2, 64)])
    def test_levels_of_the_pyramid_in_older_formats(
        self, levels: int, extra: int, coarsest: int, tmp_path: Path
    ) -> None:
        state = {f"model.neck.fpn.layer_blocks.{level}.0.weight": torch.ones(1) for level in range(levels)}
        old = deepcopy(FORMAT_1)
        old["detector"]["init_args"]["extra_levels"] = extra
        torch.save({"state_dict": state, "hyper_parameters": old, "attndense_format": 2}, tmp_path / "a.ckpt")
        found = read_checkpoint(tmp_path / "a.ckpt")["hyper_parameters"]["detector"]["init_args"]
        assert found["coarsest_stride"] == coarsest and "extra_levels" not in found

    def test_a_later_format_is_refused_in_one_line(self, fails: Callable[..., str], tmp_path: Path) -> None:
        path = tmp_path / "checkpoints" / "last.ckpt"
        path.parent.mkdir()
        content = {"state_dict": {}, "optimizer_states": [], "global_step": 3, "epoch": 1}
        torch.save(content | {"attndense_format": 4}, path)
        torch.save(content, path.with_name("last.before.ckpt"))
        words = f"{path} has checkpoint format 4, expected 1 to 3; use the version that wrote it"
        assert fails("detect", "validate", f"--ckpt_path={path}") == f"error: {words}"
        for read in (read_checkpoint, DetectionTask.load_from_checkpoint):
            with pytest.raises(NewerCheckpoint) as error:
                read(path)
            assert str(error.value) == words
        with pytest.raises(NewerCheckpoint):  # the older one beside it is not where the run stands
            newest_good_checkpoint(tmp_path)

    def test_checkpoint_of_another_task(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {}, "hyper_parameters": FORMAT_1}, tmp_path / "a.ckpt")
        with pytest.raises(TaskError, match=r"of tasks\.detect: .*; this one has no model option 'category_ids'"):
            SegmentationTask.load_from_checkpoint(tmp_path / "a.ckpt")

    def test_a_task_built_in_python_keeps_what_is_data(self, tmp_path: Path) -> None:
        built = task(weights=None, image_size=(96, 128))
        checkpoint: dict[str, Any] = {"state_dict": built.state_dict(), "pytorch-lightning_version": "2.6.6"}
        built.on_save_checkpoint(checkpoint)
        torch.save(checkpoint, tmp_path / "a.ckpt")
        assert read_checkpoint(tmp_path / "a.ckpt")["hyper_parameters"] == {
            "class_names": NAMES,
            "category_ids": [1, 2, 4, 7, 11, 13],
            "image_size": (96, 128),
            "parameter_rules": FORMAT_1["parameter_rules"] | {"base_batch_size": None, "decay_biases": False},
            "weights": None,
            "channels_last": False,
            "compile_backbone": False,
            "headline": None,
            "validation_loss": False,
            "windows": None,
            "scored_detections": 100,
        }
        other = DetectionTask.load_from_checkpoint(tmp_path / "a.ckpt", options=task().options)
        state = other.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in built.state_dict().items())


class TestMetrics:
    def test_boxes_and_masks_are_scored_together(self) -> None:
        boxes, masks = COCODetectionMetric(["a", "b"]), COCODetectionMetric(["a", "b"], "segm", prefix="mask_")
        metrics = NamedMetrics({"boxes": boxes, "masks": masks})
        mask = np.zeros((6, 9), np.uint8, order="F")
        mask[2:5, 1:4] = 1
        coded = coco_mask.encode(mask)
        found = {"image_id": 7, "boxes": torch.tensor([[1.0, 2.0, 4.0, 5.5]]), "scores": torch.ones(1)}
        truth = {"image_id": 7, "original_size": (6, 9), "boxes": torch.tensor([[1.0, 2.0, 3.0, 3.0]])}
        truth |= {"area": torch.tensor([9.0]), "iscrowd": torch.zeros(1)}
        labels = {"labels": torch.tensor([1]), "masks": [coded]}
        metrics.update([found | labels], [truth | labels])
        numbers = metrics.compute()
        assert sorted(numbers) == sorted([*numbers_of(boxes), *numbers_of(masks)])
        assert metrics.scores == [*boxes.scores, *masks.scores]
        overlaps = {"mAP": 0.8, "AP/b": 0.8, "mask_mAP": 1.0, "mask_AP/b": 1.0}  # 9 of 10.5 pixels, and all
        assert {name: numbers[name] for name in overlaps} == pytest.approx(overlaps)
        assert numbers["images"] == numbers["mask_images"] == 1.0
        metrics.reset()
        assert metrics.compute()["images"] == 0.0

    def test_a_name_that_two_metrics_give_is_refused(self) -> None:
        boxes, masks = COCODetectionMetric(["a"]), COCODetectionMetric(["a"], "segm")
        with pytest.raises(ValueError, match="the metrics boxes and masks both give mAP; give one a prefix"):
            NamedMetrics({"boxes": boxes, "masks": masks})

    def test_a_headline_that_no_metric_gives_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(DetectionTask, "headline", Headline("mIoU"))
        with pytest.raises(ValueError, match=r"the headline mIoU is none of mAP, mAP50, .*, images"):
            task()


def numbers_of(metric: Metric) -> list[str]:
    """Names that a metric says it gives."""
    return [*metric.scores, *metric.class_scores]


def test_a_headline_that_falls(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Best checkpoint, summary, record and comparison take the smallest number where the task says so."""
    scores = iter([0.5, 0.125, 0.25])
    compute = COCODetectionMetric.compute
    monkeypatch.setattr(DetectionTask, "headline", Headline("mAP50", "min"))
    monkeypatch.setattr(COCODetectionMetric, "compute", lambda self: compute(self) | {"mAP50": next(scores)})
    one_step = ("--trainer.limit_train_batches=1", "--trainer.num_sanity_val_steps=0")
    folder = command("detect", "fit", "--trainer.max_epochs=3", *one_step)
    assert content_of(folder / "checkpoints" / "best.ckpt")["global_step"] == 2
    summary = json.loads((folder / "summary.json").read_text())
    named = {"headline": "val/mAP50", "direction": "min", "val/mAP50": 0.125, "step": 2}
    assert {name: summary[name] for name in named} == named
    record = json.loads((folder / "run.json").read_text())
    assert (record["score"], record["direction"]) == ({"val/mAP50": 0.125}, "min")


@pytest.mark.parametrize(("direction", "better"), [("max", 0.75), ("min", 0.25)])
def test_improvement(direction: Any, better: float) -> None:
    headline, nan = Headline("mAP", direction), float("nan")
    found = [headline.improves(value, best) for value, best in ((better, 0.5), (0.5, better), (0.5, 0.5))]
    assert found == [True, False, False]
    assert headline.improves(0.5, nan) and headline.improves(nan, nan) and not headline.improves(nan, 0.5)
    assert headline.logged() == "val/mAP" and headline.logged("test") == "test/mAP"


def test_compiling_is_asked_of_the_backbone() -> None:
    plain, compiled = task(), task(compile_backbone=True)
    assert plain.model.backbone._compiled_call_impl is None
    assert callable(compiled.model.backbone._compiled_call_impl)
