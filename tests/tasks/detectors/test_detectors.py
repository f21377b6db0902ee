"""Detectors: losses, number formats, sizes, boxes in original pixels."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, MixedPrecision
from torch import Tensor

from attention import CoordinateAttention
from backbones import Backbone, MobileNetV2, MobileNeXt, ResNet
from tasks.detectors import FCOS, Detector, FocalSSDLite320, RetinaNet, SSDLite320
from tasks.profile.counting import count_macs
from tests.selection import mostly_slow

K = 5
BUILDERS: dict[str, Callable[[], Detector]] = {
    "retinanet": lambda: RetinaNet(MobileNetV2(0.25), K, channels=32),
    "fcos": lambda: FCOS(MobileNetV2(0.25), K, channels=32, num_convs=1),
    "fcos_small": lambda: FCOS(ResNet(18), K, channels=32, num_convs=1, coarsest_stride=32),
    "ssdlite": lambda: SSDLite320(MobileNetV2(0.25, CoordinateAttention, last_conv=True), K),
    "focal_ssdlite": lambda: FocalSSDLite320(MobileNetV2(0.25, CoordinateAttention, last_conv=True), K),
}


def make_batch(
    sizes: list[tuple[int, int]], boxes: list[list[list[float]]], frame: tuple[int, int], scale: float = 1.0
) -> dict:
    """Images of noise with boxes in pixels of the resized image; originals are `1 / scale` times as large."""
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(len(sizes), 3, *frame, dtype=torch.uint8)
    targets = []
    for position, ((height, width), rows) in enumerate(zip(sizes, boxes, strict=True)):
        image[position, :, :height, :width] = torch.randint(0, 256, (3, height, width), generator=generator)
        targets.append(
            {
                "image_id": position + 1,
                "original_size": torch.tensor([round(height / scale), round(width / scale)]),
                "boxes": torch.tensor(rows).reshape(-1, 4),
                "labels": torch.arange(len(rows)) % K,
            }
        )
    return {"image": image, "size": torch.tensor(sizes), "targets": targets}


@pytest.mark.parametrize("name", mostly_slow(BUILDERS, {"retinanet", "fcos", "focal_ssdlite"}))
def test_losses_reach_every_parameter_and_fall(name: str) -> None:
    torch.manual_seed(0)
    model = BUILDERS[name]()
    batch = make_batch([(96, 128), (128, 100)], [[[10, 10, 60, 70], [40, 5, 90, 50]], [[20, 30, 90, 120]]], (128, 128))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    history = []
    for _ in range(8):
        losses = model(batch)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(total.item())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert history[-1] < 0.8 * history[0]


@pytest.mark.parametrize("name", BUILDERS)
def test_image_without_objects_is_a_negative(name: str) -> None:
    torch.manual_seed(0)
    model = BUILDERS[name]()
    losses = model(make_batch([(96, 128), (128, 100)], [[], []], (128, 128)))
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["bbox_regression"] == 0
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())  # or DDP would wait for it


@pytest.mark.parametrize("name", BUILDERS)
def test_detections_are_inside_the_original_image_and_ordered(name: str) -> None:
    torch.manual_seed(0)
    model = BUILDERS[name]().eval()
    model.selection = replace(model.selection, score_threshold=0.0)
    with torch.no_grad():
        found = model(make_batch([(96, 128), (128, 100)], [[], []], (128, 128), scale=0.5))
    for detections, (height, width) in zip(found, [(192, 256), (256, 200)], strict=True):
        boxes, scores, labels = (detections[key] for key in ("boxes", "scores", "labels"))
        assert len(boxes) == len(scores) == len(labels) > 0
        assert (boxes >= 0).all() and (boxes[:, 2::2] <= width + 1e-3).all() and (boxes[:, 1::2] <= height + 1e-3).all()
        assert boxes[:, 2].max() > width / 2  # scaled up from the resized image
        assert (scores[:-1] >= scores[1:]).all() and 0 <= labels.min() and labels.max() < K


@pytest.mark.parametrize("name", ["retinanet", "fcos"])
def test_padding_content_is_invisible(name: str) -> None:
    torch.manual_seed(0)
    model = BUILDERS[name]()
    batch = make_batch([(96, 120)], [[[10, 10, 60, 70]]], (128, 128))
    noisy = {**batch, "image": batch["image"].clone()}
    noisy["image"][:, :, 96:], noisy["image"][:, :, :, 120:] = 77, 99
    model.eval()
    with torch.no_grad():
        one, other = model.neck(model.backbone(model.image_list(batch).tensors)), None
        other = model.neck(model.backbone(model.image_list(noisy).tensors))
    assert all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


FORMATS = {
    "bf16-mixed": lambda: MixedPrecision("bf16-mixed", "cpu"),
    "bf16-true": lambda: HalfPrecision("bf16-true"),
    "16-true": lambda: HalfPrecision("16-true"),
    "64-true": lambda: DoublePrecision(),
}


class TestHalfPrecision:
    """Anchors, losses and boxes are computed in float32 whatever the network computes in."""

    @staticmethod
    def wide_batch(name: str) -> dict:
        """Small objects beyond pixel 1024, where numbers in bfloat16 are 8 apart."""
        if "ssdlite" in name:
            return make_batch([(320, 320)] * 2, [[[210, 215, 303, 300]]] * 2, (320, 320))
        return make_batch([(64, 1344)] * 2, [[[1034, 10, 1047, 30], [1200, 20, 1210, 40]]] * 2, (64, 1344))

    @pytest.mark.parametrize(
        ("name", "precision"),
        [
            pytest.param(name, precision, marks=() if first == second else pytest.mark.slow)
            for first, name in enumerate(["fcos", "retinanet", "ssdlite", "focal_ssdlite"])
            for second, precision in enumerate(FORMATS)
        ],
    )
    def test_objects_far_from_the_origin_are_matched(self, name: str, precision: str) -> None:
        torch.manual_seed(0)
        model = BUILDERS[name]().eval()  # without the noise of batch norms over few values
        batch = self.wide_batch(name)
        with torch.no_grad():
            model.training = True
            expected = model(batch)
            plugin = FORMATS[precision]()
            converted = plugin.convert_module(model)
            with plugin.forward_context():
                found = converted(batch)
        assert torch.get_default_dtype() == torch.float32
        assert min(expected.values()) > 0
        for key, loss in expected.items():
            assert found[key].dtype == (torch.float64 if precision == "64-true" else torch.float32)
            torch.testing.assert_close(found[key].float(), loss, rtol=0.02, atol=1e-3)

    @pytest.mark.parametrize(
        "name", mostly_slow(["fcos", "retinanet", "ssdlite", "focal_ssdlite"], {"fcos", "ssdlite"})
    )
    def test_training_under_mixed_precision(self, name: str) -> None:
        history: dict[str, list[float]] = {}
        for precision, context in (
            ("32", nullcontext()),
            ("bf16", MixedPrecision("bf16-mixed", "cpu").forward_context()),
        ):
            torch.manual_seed(0)
            model = BUILDERS[name]().eval()
            model.training = True  # without the noise of batch norms over few values
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
            batch = self.wide_batch(name)
            with context:
                for _ in range(3):
                    total = sum(model(batch).values())
                    optimizer.zero_grad()
                    total.backward()
                    optimizer.step()
                    history.setdefault(precision, []).append(total.item())
        assert history["32"][-1] < history["32"][0]
        assert history["bf16"] == pytest.approx(history["32"], rel=0.02)

    @pytest.mark.parametrize("name", ["fcos", "retinanet", "ssdlite", "focal_ssdlite"])
    def test_boxes_of_a_large_original_are_not_rounded(self, name: str) -> None:
        torch.manual_seed(0)
        plugin = HalfPrecision("bf16-true")
        model = plugin.convert_module(BUILDERS[name]().eval())
        model.selection = replace(model.selection, score_threshold=0.0)
        with torch.no_grad(), plugin.forward_context():
            found = model(make_batch([(96, 128)] * 2, [[], []], (128, 128), scale=0.1))
        boxes = found[0]["boxes"]
        assert boxes.dtype == found[0]["scores"].dtype == torch.float32 and len(boxes) > 0
        assert boxes[:, 2].max() <= 1280 + 1e-3
        assert (boxes.bfloat16().float() != boxes).float().mean() > 0.3  # not what bfloat16 can hold


def test_ssdlite_parameters_of_the_specification() -> None:
    """torchvision's parts on torchvision's taps, for 80 and 90 classes and background."""
    for classes, expected in ((80, 4_484_148), (90, 4_664_988)):
        with torch.device("meta"):
            model = SSDLite320(MobileNetV2(last_conv=True, tap_expansion=True), classes)
        assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize(
    ("backbone", "parameters"),
    [
        (lambda: MobileNetV2(last_conv=True), 4_304_138),
        (lambda: MobileNetV2(attention=CoordinateAttention, last_conv=True), 4_749_914),
        (lambda: MobileNeXt(tap_expansion=True), 4_539_418),
    ],
    ids=["mobilenet_v2", "mobilenet_v2_ca", "mobilenext"],
)
def test_sizes_of_the_coordinate_attention_authors(backbone: Callable[[], Backbone], parameters: int) -> None:
    with torch.device("meta"):
        model = FocalSSDLite320(backbone(), 80)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_multiply_accumulates_of_the_coordinate_attention_authors() -> None:
    model, image = FocalSSDLite320(MobileNetV2(last_conv=True), 80).eval(), torch.zeros(1, 3, 320, 320)
    with torch.no_grad():
        assert count_macs(lambda: model.head(model.neck(model.backbone(image)))) == 748_170_112


def test_ssdlite_maps_have_the_published_sizes() -> None:
    model = SSDLite320(MobileNetV2(0.25, last_conv=True), K).eval()
    with torch.no_grad():
        maps = model.neck(model.backbone(torch.zeros(1, 3, 320, 320)))
    assert [feature.shape[-1] for feature in maps] == [20, 10, 5, 3, 2, 1]


class OtherStrides(Backbone):
    """One 1x1 convolution per map."""

    def __init__(self, *strides: int) -> None:
        super().__init__()
        self.strides, self.channels = strides, (4,) * len(strides)
        self.convs = torch.nn.ModuleList(torch.nn.Conv2d(3, 4, 1, stride) for stride in strides)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [conv(x) for conv in self.convs]

    def stages(self) -> list[list[torch.nn.Module]]:
        return [[self.convs]]


@pytest.mark.parametrize(
    ("strides", "scales"),
    [
        ((4, 8, 16, 32), (8, 16, 32, 64, 128)),
        ((16,), (8, 16, 32, 64, 128)),
        ((8, 32), (8, 32, 64, 128)),
        ((8, 8), (8, 16, 32, 64, 128)),
    ],
)
@pytest.mark.parametrize("kind", [FCOS, RetinaNet])
def test_anchors_follow_the_strides_of_the_backbone(
    kind: type[FCOS | RetinaNet], strides: tuple[int, ...], scales: tuple[int, ...]
) -> None:
    detector = kind(OtherStrides(*strides), K, channels=32)
    factor = {FCOS: 1, RetinaNet: 4}[kind]
    assert [sizes[0] for sizes in detector.anchor_generator.sizes] == [factor * scale for scale in scales]
    assert detector.train()(make_batch([(64, 96)] * 2, [[[10, 12, 50, 60]], []], (64, 96)))


def test_wrong_arguments_are_refused() -> None:
    for kind in (FCOS, RetinaNet):
        with pytest.raises(ValueError, match=r"strides \(2, 4\), a feature pyramid needs"):
            kind(OtherStrides(2, 4), K)
    with pytest.raises(ValueError, match="multiple of 32"):
        FCOS(MobileNetV2(0.25), K, channels=100)
    with pytest.raises(ValueError, match="extra='p6' is unknown"):
        RetinaNet(MobileNetV2(0.25), K, extra_levels="p6")
    with pytest.raises(ValueError, match="strides"):
        SSDLite320(MobileNetV2(0.25, output_stride=16), K)


def test_boxes_go_to_original_pixels_by_the_scale_of_each_side() -> None:
    detections = [{"boxes": torch.tensor([[10.0, 20.0, 30.0, 50.0]])}, {"boxes": torch.tensor([[4.0, 8.0, 6.0, 60.0]])}]
    sizes, original = [[60, 80], [64, 16]], [[180, 160], [32, 48]]
    targets = [{"original_size": torch.tensor(size)} for size in original]
    found = Detector.to_original(detections, {"size": torch.tensor(sizes), "targets": targets})
    assert found[0]["boxes"].tolist() == [[20.0, 60.0, 60.0, 150.0]]  # twice as wide, three times as high
    assert found[1]["boxes"].tolist() == [[12.0, 4.0, 18.0, 30.0]]  # three times as wide, half as high
