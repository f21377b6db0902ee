"""Against outputs and losses of MMDetection's own detectors, under weights that follow from their names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from backbones import ResNet
from tasks.detectors import CascadeRCNN, Detector, FasterRCNN
from tasks.detectors.conversions import from_mmdetection, is_mmdetection
from tasks.detectors.two_stage.options import BoxHeadOptions, RPNOptions

EVERYTHING = 10**6
RPN = RPNOptions(
    samples=EVERYTHING,
    candidates_train=200,
    candidates_test=200,
    proposals_train=100,
    proposals_test=100,
)
LIMITS: dict[str, Any] = {"rpn": RPN, "score_threshold": 0.0, "max_detections": 50}
ALL_BOXES = {"samples": EVERYTHING, "positive_fraction": 0.5}
MODELS: dict[str, Callable[[], Detector]] = {
    "faster_r50": lambda: FasterRCNN(ResNet(50), 80, box_head=BoxHeadOptions(**ALL_BOXES), **LIMITS),
    "cascade_r50_agnostic": lambda: CascadeRCNN(
        ResNet(50), 80, box_head=BoxHeadOptions(regressors="shared", **ALL_BOXES), **LIMITS
    ),
}
LOSSES = {
    "loss_rpn_cls": "rpn_classification",
    "loss_rpn_bbox": "rpn_bbox_regression",
    "loss_cls": "classification",
    "loss_bbox": "bbox_regression",
    **{f"s{stage}.loss_cls": f"stage{stage}_classification" for stage in range(3)},
    **{f"s{stage}.loss_bbox": f"stage{stage}_bbox_regression" for stage in range(3)},
}


def tensor_of(name: str, shape: torch.Size) -> Tensor:
    """The weights that follow from a name, as the oracle's README has them."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(crc32(name.encode())))
    if name.endswith("running_var"):
        return 1 + 0.1 * drawn.abs()
    if name.endswith("running_mean"):
        return 0.1 * drawn
    if len(shape) < 2:
        return float(name.endswith("weight")) + 0.05 * drawn
    return drawn / drawn[0].numel() ** 0.5


def load(model: Detector, names: list[str]) -> None:
    """Fills a model through the conversion of MMDetection's names."""
    own = model.state_dict()
    ours = from_mmdetection({name: name for name in names})  # type: ignore[misc]  # names instead of tensors
    assert ours.keys() == own.keys()
    foreign = {
        theirs: tensor_of(theirs, own[name].shape) if own[name].is_floating_point() else own[name]
        for name, theirs in ours.items()
    }
    assert is_mmdetection(foreign)
    model.load_state_dict(from_mmdetection(foreign))


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_losses(name: str, shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("mmdet-oracle")
    content = json.loads((folder / "oracle.json").read_text())
    expected, truth = content[name], content["ground_truth"]
    model = MODELS[name]().eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == expected["parameters"]
    load(model, expected["state_dict"])
    image = torch.from_numpy(np.array(Image.open(folder / "image.png"))).permute(2, 0, 1)
    size = torch.tensor(image.shape[1:])
    target = {"boxes": torch.tensor(truth["boxes"]), "labels": torch.tensor(truth["labels"]), "original_size": size}
    batch = {"image": image[None], "size": size[None], "targets": [target]}
    with torch.no_grad():
        (found,) = model(batch)
        model.training = True  # norms stay in evaluation mode
        losses = model(batch)
    assert {LOSSES[key]: pytest.approx(value, abs=1e-4) for key, value in expected["losses"].items()} == {
        key: value.item() for key, value in losses.items()
    }
    torch.testing.assert_close(found["boxes"], torch.tensor(expected["boxes"]), rtol=0, atol=0.01)
    torch.testing.assert_close(found["scores"], torch.tensor(expected["scores"]), rtol=0, atol=1e-4)
    assert found["labels"].tolist() == expected["labels"]
