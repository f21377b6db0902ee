"""`--model.validation_loss`: the loss of validation images, which changes nothing of training."""

import copy
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attention import CoordinateAttention
from backbones import MobileNetV2
from datamodules import COCO, FixedSize
from datamodules.sampling import SampleKey
from tasks.class_tensors import DenseModel
from tasks.detectors import FCOS, FocalSSDLite320, RetinaNet, SSDLite320
from tasks.errors import TaskError
from tasks.segmentors import EncoderDecoder
from tasks.segmentors.inference import SlideInference
from tasks.validation_loss import ValidationLosses
from tests.selection import mostly_slow
from tests.tasks.conftest import Command, command_arguments
from tests.tasks.detectors.two_stage import small
from tests.tasks.running import require_equal, run, two_processes

K = 3
SIZES = [(96, 120), (128, 90), (64, 128)]
BOXES = [[[10, 10, 60, 70], [40, 5, 90, 50]], [[20, 30, 80, 120]], []]


def backbone() -> MobileNetV2:
    return MobileNetV2(0.25, CoordinateAttention, last_conv=True)


HEAD: dict[str, Any] = {"type": "FCNHead", "channels": 8, "num_convs": 1, "dropout_ratio": 0.5}
MODELS: dict[str, Callable[[], DenseModel]] = {
    "FCOS": lambda: FCOS(backbone(), K, channels=64, num_convs=1),  # more than one value for each of 32 groups
    "RetinaNet": lambda: RetinaNet(backbone(), K, channels=64),
    "SSDLite320": lambda: SSDLite320(backbone(), K, extra_channels=(16, 16, 16, 16)),
    "FocalSSDLite320": lambda: FocalSSDLite320(backbone(), K),
    "MaskRCNN": small.BUILDERS["mask"],
    "CascadeMaskRCNN": small.BUILDERS["cascade_mask"],
    "EncoderDecoder": lambda: EncoderDecoder(backbone(), K, HEAD, HEAD | {"in_index": 2}),
}


def evaluation_batch(*places: int) -> dict[str, Any]:
    """Some of the images as validation has them; number 3 fills up the last step of a distributed run."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in SIZES]
    masks = [torch.randint(0, K, (2 * h, 2 * w), generator=generator, dtype=torch.uint8) for h, w in SIZES]
    image = torch.zeros(len(places), 3, 128, 128, dtype=torch.uint8)
    targets = []
    for row, place in zip(image, places, strict=True):
        height, width = SIZES[place % 3]
        row[:, :height, :width] = images[place % 3]
        boxes = torch.tensor(BOXES[place % 3], dtype=torch.float32).reshape(-1, 4)
        drawn = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(drawn, boxes.int().tolist(), strict=True):
            mask[top:bottom, left : (left + right) // 2] = 1
        original = torch.tensor([2 * height, 2 * width])
        labels = torch.arange(len(boxes)) % K
        targets.append({"image_id": place, "original_size": original, "boxes": boxes, "labels": labels, "masks": drawn})
    return {
        "image": image,
        "size": torch.tensor([SIZES[place % 3] for place in places]),
        "mask": [masks[place % 3] for place in places],
        "targets": targets,
        "keys": [SampleKey(7, place % 3, place == 3) for place in places],
        "repeated": torch.tensor([place == 3 for place in places]),
    }


def losses_of(model: DenseModel, *batches: dict[str, Any]) -> dict[str, float]:
    losses = ValidationLosses()
    for batch in batches:
        losses.update(model, batch)
    return losses.compute()


def moved(model: DenseModel) -> DenseModel:
    """With statistics of norms that a batch does not have, in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1, generator=torch.Generator().manual_seed(3))
    return model.eval()


@pytest.mark.parametrize("name", mostly_slow(MODELS, {"FCOS", "MaskRCNN", "EncoderDecoder"}))
def test_it_is_the_mean_over_images_of_the_training_loss_without_chance(name: str) -> None:
    torch.manual_seed(0)
    model = moved(MODELS[name]())
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = losses_of(model, evaluation_batch(0, 1), evaluation_batch(2, 3))
    require_equal(model.state_dict(), before, "state")
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert losses_of(model, *(evaluation_batch(place) for place in (2, 0, 1))) == found

    learning = copy.deepcopy(model).train()  # the usual way, with everything held still that training moves
    for module in learning.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.Dropout | nn.Dropout2d):
            module.eval()
    expected: list[dict[str, float]] = []
    for place in range(3):
        (view,) = model.as_training(evaluation_batch(place), 0)
        expected.append({name: float(value.mean()) for name, value in learning(view).items()})
    for part in expected[0]:
        logged = part if part.startswith("loss_") else f"loss_{part}"
        assert found[logged] == pytest.approx(sum(of_image[part] for of_image in expected) / 3, rel=1e-5, abs=1e-7)
    assert found["loss"] == pytest.approx(sum(value for part, value in found.items() if part != "loss"))
    assert len(found) == 1 + len(expected[0]) and found["loss"] > 0


def test_sliding_windows_are_those_of_the_inference() -> None:
    torch.manual_seed(0)
    model = moved(EncoderDecoder(backbone(), K, HEAD, inference=SlideInference(window=(64, 80), stride=(32, 48))))
    views = model.as_training(evaluation_batch(0), 0)
    assert [tuple(view["image"].shape[-2:]) for view in views] == [(64, 80)] * 4  # of 96 x 120 pixels
    batch = evaluation_batch(0)
    small = batch["mask"][0][1::2, 1::2]  # nearest of twice as many
    assert torch.equal(views[1]["mask"][0], small[:64, 40:])
    assert torch.equal(views[1]["image"][0], batch["image"][0, :, :64, 40:120])
    assert losses_of(model, batch)["loss"] > 0


def test_of_no_image_there_is_no_loss() -> None:
    assert losses_of(moved(MODELS["FCOS"]()), evaluation_batch(3)) == {}


def test_objects_without_masks_are_refused_in_a_line() -> None:
    model, batch = moved(MODELS["MaskRCNN"]()), evaluation_batch(0)
    del batch["targets"][0]["masks"]
    with pytest.raises(TaskError, match="true needs masks of validation images"):
        losses_of(model, batch)


@pytest.mark.parametrize("task", ["detect", pytest.param("segment", marks=pytest.mark.slow)])
def test_training_is_the_same_to_the_last_bit(task: str, trained: Callable[[str], Path], command: Command) -> None:
    folder = command(task, "fit", "--model.validation_loss=true")
    for name in ("state_dict", "optimizer_states", "lr_schedulers"):
        one, other = (torch.load(run / "checkpoints" / "last.ckpt")[name] for run in (trained(task), folder))
        require_equal(one, other, name)
    plain, added = (_numbers(run) for run in (trained(task), folder))
    losses = {name for name in added[-1] if name.startswith("val/loss")}
    assert len(losses) > 2 and all("val/loss" not in name for row in plain for name in row)
    assert plain == [{name: value for name, value in row.items() if name not in losses} for row in added]
    summary = json.loads((folder / "summary.json").read_text())
    assert all(summary[name] == pytest.approx(float(added[-1][name]), rel=1e-6) for name in losses)


def _numbers(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as lines:
        rows = [*csv.DictReader(lines)]
    timed = ("perf/", "seconds")
    return [{name: value for name, value in row.items() if value and not name.startswith(timed)} for row in rows]


def test_validation_images_get_what_training_images_have(shapes: Path) -> None:
    def sample(**options: Any) -> dict[str, Any]:
        data = COCO(shapes / "coco", pipeline=FixedSize(96, 128), masks=True, **options)
        sample: dict[str, Any] = data.val_dataset()[SampleKey(0, 1, False)]
        return sample["target"] | {"size": sample["image"].shape[1:]}

    plain, full = sample(), sample(training_targets=True)
    assert full.keys() - plain.keys() == {"masks", "crowd"} and not plain.keys() - full.keys()
    assert full["masks"].shape == (len(plain["boxes"]), *plain["size"]) and torch.equal(full["boxes"], plain["boxes"])
    for mask, (left, top, right, bottom) in zip(full["masks"], full["boxes"].tolist(), strict=True):
        rows, columns = mask.nonzero().unbind(dim=1)
        assert left - 1 <= columns.min() and columns.max() <= right and top - 1 <= rows.min() and rows.max() <= bottom


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_it_is_the_same_for_any_number_of_processes(
    task: str, trained: Callable[[str], Path], shapes: Path, tmp_path: Path
) -> None:
    found = []
    for name, options in (("one", ()), ("two", two_processes())):
        arguments = command_arguments(task, "validate", shapes, tmp_path, name)
        checkpoint = f"--ckpt_path={trained(task)}/checkpoints/last.ckpt"
        more = (checkpoint, "--model.validation_loss=true", "--trainer.accelerator=cpu", "--data.val_batch_size=1")
        code, output = run(task, [*arguments, *more, *options])
        assert code == 0, output
        summary = json.loads((tmp_path / task / name / "summary.validate.json").read_text())
        found.append({score: value for score, value in summary.items() if score.startswith("val/")})
    assert "val/loss" in found[0] and found[0] == found[1]
