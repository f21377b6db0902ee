"""Operators in the pyramid and the heads of dense detectors, and the sizes of the fully attentional RetinaNet."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.ssd import SSDScoringHead

from attention import CoordinateAttention, Mixer, StandAloneSelfAttention, StaticGate
from backbones import MobileNetV2, ResNet, sasa_resnet50
from tasks.detectors import FCOS, FocalSSDLite320, RetinaNet, SSDLite320
from tasks.detectors.dense import DenseDetector
from tasks.profile.counting import count_macs

SMALL = partial(StandAloneSelfAttention, heads=4, kernel_size=3)


@pytest.mark.parametrize(
    ("backbone", "mixer", "parameters", "flops", "published"),
    [
        (partial(ResNet, 50), None, 33_397_364, 182.3, (33.4, 182)),
        (partial(sasa_resnet50, stem="conv"), None, 25_878_964, 171.1, (25.9, 173)),
        (partial(sasa_resnet50, stem="conv"), StandAloneSelfAttention, 21_987_252, 109.1, (22.0, 111)),
        (partial(sasa_resnet50, stem="attention"), StandAloneSelfAttention, 21_979_188, 110.5, (22.0, 110)),
    ],
)
def test_sizes_of_stand_alone_self_attention(
    backbone: Callable[[], ResNet],
    mixer: Callable[..., Mixer] | None,
    parameters: int,
    flops: float,
    published: tuple[float, float],
) -> None:
    """Table 3 of arXiv 1906.05909; operations without the losses and anchors, twice the multiply-accumulates."""
    with torch.device("meta"):
        detector = RetinaNet(backbone(), 90, octave_scales=2, head_mixer=mixer).eval()
        image = torch.zeros(1, 3, 640, 640)
        macs = count_macs(lambda: detector.head(detector.neck(detector.backbone(image))))
    assert sum(value.numel() for value in detector.parameters()) == parameters
    assert round(parameters / 1e6, 1) == published[0]
    assert round(2 * macs / 1e9, 1) == flops and abs(flops / published[1] - 1) < 0.02


def test_the_fully_attentional_detector_is_smaller_by_the_published_shares() -> None:
    """Section 4.2 of arXiv 1906.05909: 39 % fewer operations and 34 % fewer parameters."""
    assert round(100 * (1 - 21_979_188 / 33_397_364)) == 34
    assert round(100 * (1 - 110.49 / 182.33)) == 39


@pytest.mark.parametrize("build", [RetinaNet, FCOS])
def test_no_convolution_larger_than_one_cell_is_left_in_the_heads(build: Callable[..., DenseDetector]) -> None:
    detector = build(ResNet(18), 3, 32, head_mixer=SMALL, pyramid_mixer=SMALL)
    for part in (detector.neck, detector.head):
        assert {c.kernel_size for c in part.modules() if isinstance(c, nn.Conv2d)} == {(1, 1)}
    strides = [m.stride for m in detector.neck.modules() if isinstance(m, Mixer)]
    assert strides == [1, 1, 1, 2, 2]
    towers = [sum(isinstance(m, Mixer) for m in head.modules()) for head in detector.head.children()]
    assert towers == [5, 5]
    deviations = {round(m.value.weight.std().item(), 2) for m in detector.head.modules() if isinstance(m, SMALL.func)}
    assert deviations == {0.01}
    plain = build(ResNet(18), 3, 32).head.classification_head.cls_logits
    torch.testing.assert_close(detector.head.classification_head.cls_logits.bias, plain.bias)


@pytest.mark.parametrize("build", [RetinaNet, FCOS])
@pytest.mark.parametrize(
    "options",
    [
        {"head_mixer": SMALL, "pyramid_mixer": SMALL},
        {"head_attention": CoordinateAttention, "pyramid_attention": StaticGate},
    ],
)
def test_every_operator_learns(build: Callable[..., DenseDetector], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    detector = build(ResNet(18), 3, 32, **options).train()
    batch = two_images(96, 128)
    check_all_learn(detector, batch)
    inserted = [m for m in detector.modules() if isinstance(m, CoordinateAttention | StaticGate)]
    if "head_attention" in options:
        assert [type(m).__name__ for m in inserted].count("StaticGate") == 5  # one a level
        assert [type(m).__name__ for m in inserted].count("CoordinateAttention") == 2  # one a tower, shared by levels


def two_images(height: int, width: int) -> dict[str, Any]:
    """A batch with an object in each image."""
    targets = [{"boxes": torch.tensor([[10.0, 20.0, 50.0, 60.0]]), "labels": torch.tensor([1])} for _ in range(2)]
    batch: dict[str, Any] = {"image": torch.randint(0, 255, (2, 3, height, width), dtype=torch.uint8)}
    batch["targets"] = [{**target, "crowd_boxes": torch.zeros(0, 4)} for target in targets]
    batch["size"] = torch.tensor([[height, width]] * 2)
    return batch


def check_all_learn(detector: DenseDetector, batch: dict[str, Any]) -> None:
    losses = detector(batch)
    torch.stack([loss for loss in losses.values() if isinstance(loss, Tensor)]).sum().backward()
    without = [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def ssdlite(build: Callable[..., DenseDetector], **options: Any) -> DenseDetector:
    torch.manual_seed(0)
    return build(MobileNetV2(0.25, last_conv=True), 3, **options)


SSDLITES = pytest.mark.parametrize(("build", "separable"), [(SSDLite320, 6), (FocalSSDLite320, 5)])


@SSDLITES
@pytest.mark.parametrize("options", [{"head_mixer": SMALL}, {"head_attention": CoordinateAttention}])
def test_operators_stand_in_the_predictors_of_ssdlite(
    build: Callable[..., DenseDetector], separable: int, options: dict[str, Any]
) -> None:
    """For classes and for boxes one in each separable predictor, of the channels of its map; all of them learn."""
    detector = ssdlite(build, **options).train()
    kind = StandAloneSelfAttention if "head_mixer" in options else CoordinateAttention
    for part in detector.head.children():
        assert isinstance(part, SSDScoringHead)
        placed = [m for m in part.modules() if isinstance(m, kind)]
        predictors = [p for p in part.module_list if isinstance(p, nn.Sequential)]
        assert len(placed) == separable
        assert [m.in_channels if isinstance(m, Mixer) else m.channels for m in placed] == [
            predictor[-1].in_channels for predictor in predictors
        ]
        three = [c for c in part.modules() if isinstance(c, nn.Conv2d) and c.kernel_size == (3, 3)]
        assert len(three) == (0 if "head_mixer" in options else separable)
    check_all_learn(detector, two_images(320, 320))


@SSDLITES
def test_refinements_of_ssdlite_act_in_front_of_what_predicts(
    build: Callable[..., DenseDetector], separable: int
) -> None:
    """Weights of the plain detector load under their names, and a gate scales what the 1x1 convolutions read."""
    plain, refined = ssdlite(build).eval(), ssdlite(build, head_attention=StaticGate).eval()
    missing, unexpected = refined.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == [] and len(missing) == 2 * separable and all(n.endswith("scores") for n in missing)
    for module in refined.modules():
        if isinstance(module, StaticGate):
            nn.init.constant_(module.scores, -1.0)
    maps = plain.neck(plain.backbone(torch.rand(1, 3, 320, 320)))
    with torch.no_grad():
        for ours, theirs in zip(refined.head.children(), plain.head.children(), strict=True):
            assert isinstance(ours, SSDScoringHead) and isinstance(theirs, SSDScoringHead)
            for x, predictor, unrefined in zip(maps, ours.module_list, theirs.module_list, strict=True):
                expected = unrefined(x)
                if isinstance(unrefined, nn.Sequential):
                    bias = unrefined.get_parameter(f"{len(unrefined) - 1}.bias")[:, None, None]
                    expected = (expected - bias) * torch.sigmoid(torch.tensor(-1.0)) + bias
                torch.testing.assert_close(predictor(x), expected)
    assert refined.class_tensors().keys() == plain.class_tensors().keys() <= refined.state_dict().keys()


def test_two_scales_an_octave_are_six_anchors_a_cell() -> None:
    with torch.device("meta"):
        two, three = RetinaNet(ResNet(18), 3, octave_scales=2), RetinaNet(ResNet(18), 3)
    assert (two.per_location, three.per_location) == (6, 9)
    assert two.anchor_generator.sizes[0] == (32, 45) and three.anchor_generator.sizes[0] == (32, 40, 50)
    with pytest.raises(ValueError, match="octave_scales=0 is too small"):
        RetinaNet(ResNet(18), 3, octave_scales=0)
