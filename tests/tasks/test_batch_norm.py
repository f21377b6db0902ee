"""One value per channel: refused before the first step where it can be seen, named where it cannot."""

from typing import Any

import pytest
import torch

from attention import BAM
from backbones import MobileNetV2, ResNet
from tasks.batch_norm import explain, refuse_one_value
from tasks.class_tensors import DenseModel
from tasks.detectors import FCOS, SSDLite320
from tasks.errors import TaskError
from tasks.segmentors import EncoderDecoder

UPER = {"type": "UPerHead", "channels": 16, "pool_scales": [1, 2]}
FCN = {"type": "FCNHead", "channels": 16, "num_convs": 1}
PSP = {"type": "PSPHead", "channels": 8, "pool_scales": [1], "in_index": 2}


def segmentor(head: dict[str, Any], auxiliary: dict[str, Any] | None = None, **options: Any) -> EncoderDecoder:
    return EncoderDecoder(MobileNetV2(0.25, **options), 5, head, auxiliary)


def step(model: DenseModel, side: int) -> None:
    """The first training step on one image."""
    size = torch.tensor([[side, side]])
    target = {"boxes": torch.tensor([[5.0, 5.0, 40.0, 50.0]]), "labels": torch.tensor([1]), "original_size": size[0]}
    batch = {"image": torch.zeros(1, 3, side, side, dtype=torch.uint8), "size": size, "targets": [target]}
    model(batch | {"mask": torch.zeros(1, side, side, dtype=torch.uint8)})


CASES = {
    "pooling head": (lambda: segmentor(UPER), 64, "decode_head.psp_modules.0.1.bn", "SyncBN"),
    "last map of a detector": (
        lambda: SSDLite320(MobileNetV2(0.25, last_conv=True), 5),
        320,
        "extras.3.1.1 (and 3 more)",
        "SyncBN",
    ),
    "attention": (lambda: FCOS(ResNet(18, BAM), 5, channels=64, num_convs=1), 64, "attention.channel.1", "attention"),
    "host norm": (lambda: segmentor(FCN), 32, "backbone.features.14", "--model.backbone.norms eval"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_before_the_first_step(case: str) -> None:
    build, side, name, remedy = CASES[case]
    model = build()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    with pytest.raises(TaskError) as error:
        refuse_one_value(model, (side, side), 1)
    message = str(error.value)
    assert name in message and remedy in message and "--data.batch_size of at least 2" in message
    assert "\n" not in message and len(message) < 300
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    refuse_one_value(model, (side, side), 2)


@pytest.mark.parametrize("case", CASES)
def test_explained_in_the_first_step(case: str) -> None:
    build, side, name, remedy = CASES[case]
    model = build()
    with pytest.raises(ValueError, match="Expected more than 1 value") as error:
        step(model, side)
    message = explain(model, error.value)
    assert message is not None and name.split(" ")[0] in message and remedy in message


def test_auxiliary_head_is_explained() -> None:
    model = segmentor(FCN, PSP)
    refuse_one_value(model, (64, 64), 1)  # evaluation does not run it
    with pytest.raises(ValueError, match="Expected more than 1 value") as error:
        step(model, 64)
    assert "auxiliary_head.psp_modules.0.1.bn" in str(explain(model, error.value))


def test_nothing_is_refused_that_trains() -> None:
    fine = {**FCN, "in_index": 1}
    for model, side in ((segmentor(FCN), 64), (segmentor(fine, norms="eval"), 32)):
        refuse_one_value(model, (side, side), 1)
        step(model, side)
    refuse_one_value(segmentor(UPER).eval(), (64, 64), 1)


def test_group_of_one_value() -> None:
    model = FCOS(MobileNetV2(0.25), 5, channels=32, num_convs=1)
    with pytest.raises(ValueError, match="Expected more than 1 value") as error:
        step(model, 64)
    assert "a group of head.classification_head.conv.1 has one value" in str(explain(model, error.value))


def test_other_errors_and_no_traceback() -> None:
    model = segmentor(FCN)
    assert explain(model, ValueError("loss is nan")) is None
    assert "the batch norm has one value" in str(explain(model, ValueError("Expected more than 1 value per channel")))
