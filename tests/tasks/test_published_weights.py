"""Published weights of whole detectors: the same boxes as in the library that they come from, or refused."""

import json
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.logging import HistoryBuffer
from PIL import Image
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.retinanet import RetinaNet as PeerRetinaNet
from torchvision.models.detection.retinanet import _default_anchorgen
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from backbones import Backbone, ELSASwin, ResNet, Swin
from tasks import detect
from tasks.detectors import FCOS, CascadeMaskRCNN, CascadeRCNN, Detector, FasterRCNN, MaskRCNN, RetinaNet
from tasks.detectors.conversions import from_torchvision
from tasks.detectors.two_stage.options import BoxHeadOptions, MaskHeadOptions, RPNOptions
from tasks.errors import TaskError
from tasks.published_base import PublishedWeights
from tasks.published_detectors import PublishedDetector
from tasks.published_weights import read_published, require_fitting
from tasks.weights import (
    CheckpointClasses,
    DamagedCheckpoint,
    describe_weights_classes,
    load_model_weights,
)
from tests.tasks.building import CONFIGS, build_task
from tests.tasks.detectors.photographs import photograph_batch
from tests.tasks.published_layouts import as_mmdetection, before_0_13

COCO = detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
NAMES = [name for name in COCO if name not in ("__background__", "N/A")]
LABELS = torch.tensor([COCO.index(name) for name in NAMES])
BACKWARDS = NAMES[::-1]
V2: dict[str, Any] = {
    "convention": "torchvision",
    "pyramid_norm": True,
    "rpn": RPNOptions(convs=2),
    "box_head": BoxHeadOptions(convs=4, fcs=1),
}
AGNOSTIC = BoxHeadOptions(regressors="shared")


def scattered(peer: nn.Module, images: list[Tensor]) -> nn.Module:
    """The model with scores and boxes that differ, norms that are not trivial, and no trust in what is no class."""
    generator = torch.Generator().manual_seed(3)
    for module in peer.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.2, generator=generator)
            if isinstance(module, FrozenBatchNorm2d):  # some channels hardly vary, as in ImageNet's networks
                module.running_var[::7] *= 1e-7
                module.running_mean[::7] *= 1e-5
                module.weight[::7] *= 1e-4
    for name, value in peer.state_dict().items():
        if "cls_" in name or "mask_fcn_logits" in name or "bbox_" in name:
            value.normal_(0, 0.03 if "bbox_" in name else 0.1, generator=generator)
    (classifier,) = (
        module
        for name, module in peer.eval().named_modules()
        if name.endswith(("box_predictor.cls_score", "classification_head.cls_logits"))
    )
    seen: list[Tensor] = []
    handle = classifier.register_forward_hook(lambda _module, _inputs, output: seen.append(output.flatten()))
    with torch.no_grad():
        peer(images)
        handle.remove()
        classifier.weight.mul_(1.5 / torch.cat(seen).std())
        classifier.bias.copy_(torch.randn(classifier.bias.shape, generator=generator))
        outputs = classifier.bias.view(-1, len(COCO))  # of every anchor
        outputs[:, [number for number, name in enumerate(COCO) if name == "N/A"]] = -1e3
        if isinstance(classifier, nn.Conv2d):
            outputs.sub_(2)[:, 0] = -1e3
    return peer


def frozen_resnet18(**options: Any) -> nn.Module:
    body = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=5, **options
    )
    for module in body.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0
    return body


SIDES: dict[str, Any] = {"min_size": 120, "max_size": 160}
FEW: dict[str, Any] = {"rpn_post_nms_top_n_test": 50, "box_detections_per_img": 15}
SURE: dict[str, Any] = {"score_thresh": 0.5}
WEIGHTLESS: dict[str, Any] = {"weights": None, "weights_backbone": None, **SIDES}
TWO: dict[str, Any] = {
    "convention": "torchvision",
    "rpn": RPNOptions(proposals_test=50),
    "max_detections": 15,
}
TWO_V2: dict[str, Any] = V2 | TWO | {"rpn": RPNOptions(convs=2, proposals_test=50)}


def small_mask_rcnn() -> nn.Module:
    peer = detection.MaskRCNN(frozen_resnet18(), len(COCO), **SIDES, **FEW)
    peer.roi_heads.box_head = detection.faster_rcnn.TwoMLPHead(256 * 49, 48)
    peer.roi_heads.box_predictor = detection.faster_rcnn.FastRCNNPredictor(48, len(COCO))
    return peer


def small_retinanet() -> nn.Module:
    body = frozen_resnet18(returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    return PeerRetinaNet(body, len(COCO), anchor_generator=_default_anchorgen(), **SIDES, **SURE)


def published(name: str, *options: dict[str, Any]) -> Callable[[], nn.Module]:
    return lambda: getattr(detection, f"{name}_resnet50_fpn{'_v2' * (V2 in options)}")(
        **WEIGHTLESS, **{key: value for some in options if some is not V2 for key, value in some.items()}
    )


TORCHVISION: dict[str, tuple[Callable[[], nn.Module], Callable[[], Detector]]] = {
    "small mask": (
        small_mask_rcnn,
        lambda: MaskRCNN(ResNet(18), 80, box_head=BoxHeadOptions(fc_channels=48), **TWO),
    ),
    "small retinanet": (small_retinanet, lambda: RetinaNet(ResNet(18), 80, score_threshold=0.5)),
    "faster": (
        published("fasterrcnn", FEW),
        lambda: FasterRCNN(ResNet(50), 80, box_head=BoxHeadOptions(regressors="classes"), **TWO),
    ),
    "mask": (published("maskrcnn", FEW), lambda: MaskRCNN(ResNet(50), 80, **TWO)),
    "faster v2": (published("fasterrcnn", FEW, V2), lambda: FasterRCNN(ResNet(50), 80, **TWO_V2)),
    "mask v2": (
        published("maskrcnn", FEW, V2),
        lambda: MaskRCNN(ResNet(50), 80, mask_head=MaskHeadOptions(norm=True), **TWO_V2),
    ),
    "retinanet": (published("retinanet", SURE), lambda: RetinaNet(ResNet(50), 80, score_threshold=0.5)),
    "retinanet v2": (
        published("retinanet", SURE, V2),
        lambda: RetinaNet(ResNet(50), 80, extra_levels="p6p7_from_c5", head_norm=True, score_threshold=0.5),
    ),
    "fcos": (published("fcos", SURE), lambda: FCOS(ResNet(50), 80, score_threshold=0.5)),
}


@pytest.mark.parametrize(
    "name", [name if name.startswith("small") else pytest.param(name, marks=pytest.mark.slow) for name in TORCHVISION]
)
def test_torchvisions_boxes(name: str, shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    """The small ones have the layout of the first published files: names from before 0.13, norms without epsilon."""
    torch.manual_seed(0)
    build, build_ours = TORCHVISION[name]
    batch = photograph_batch(shared_data("coco-free"), {89: (120, 160), 73: (160, 120)}, (160, 160))
    sizes = batch["size"].tolist()
    images = [image[:, :h, :w] / 255 for image, (h, w) in zip(batch["image"], sizes, strict=True)]
    peer, path, first = scattered(build(), images), tmp_path / "published.pth", name.startswith("small")
    state = before_0_13(peer.state_dict()) if first else peer.state_dict()
    torch.save(state, path, _use_new_zipfile_serialization=not first)
    ours = build_ours().eval()
    load_model_weights(ours, BACKWARDS, path)
    with torch.no_grad():
        expected, found = peer(images), ours(batch)
    for one, other, size, target in zip(found, expected, batch["size"], batch["targets"], strict=True):
        count = min(len(other["boxes"]), 100)
        assert count >= 10 and len(one["boxes"]) == count
        torch.testing.assert_close(one["scores"], other["scores"][:count], rtol=0, atol=1e-4)
        assert torch.equal(LABELS.flip(0)[one["labels"]], other["labels"][:count])
        scale = (target["original_size"] / size).flip(0).repeat(2)
        torch.testing.assert_close(one["boxes"] / scale, other["boxes"][:count], rtol=1e-4, atol=1e-2)


def test_norms_of_fcos_and_of_later_training_keep_their_epsilon(tmp_path: Path) -> None:
    for names in (
        {"backbone.fpn.inner_blocks.0.weight": 1, "head.regression_head.bbox_ctrness.weight": 1},
        {"backbone.fpn.inner_blocks.0.0.weight": 1, "head.regression_head.bbox_reg.weight": 4},
    ):
        norm = {"weight": torch.ones(3), "running_var": torch.tensor([1e-9, 1.0, 0.0])}
        state = {f"backbone.body.bn1.{name}": value for name, value in norm.items()}
        state |= {name: torch.ones(count) for name, count in names.items()}
        found = from_torchvision(state)
        assert all(torch.equal(found[f"backbone.bn1.{name}"], value) for name, value in norm.items())


TINY: dict[str, Any] = {"embed_channels": 32, "depths": (1, 2, 1, 2)}
NARROW: dict[str, Any] = {"channels": 32, "box_head": BoxHeadOptions(convs=4, conv_channels=16, fcs=1, fc_channels=24)}
BACKBONES: dict[str, Callable[[], Backbone]] = {
    "resnet": lambda: ResNet(50),
    "fork": Swin,
    "mm": Swin,
    "elsa": ELSASwin,
}
DETECTORS: dict[str, Callable[[Backbone, int], Detector]] = {
    "Faster R-CNN": FasterRCNN,
    "Mask R-CNN": MaskRCNN,
    "Cascade R-CNN": lambda backbone, k: CascadeRCNN(
        backbone, k, box_head=BoxHeadOptions(regressors="shared", loss="smooth_l1")
    ),
    "Cascade Mask R-CNN": CascadeMaskRCNN,
}
SMALL: list[tuple[str, Callable[[int], Detector], dict[str, Any]]] = [
    ("fork", lambda k: MaskRCNN(Swin(**TINY), k, **NARROW), {}),
    ("mm", lambda k: CascadeRCNN(Swin(**TINY), k, **NARROW), {"CLASSES": NAMES}),
    ("elsa", lambda k: CascadeMaskRCNN(ELSASwin(**TINY), k, **NARROW), {"dataset_meta": {"classes": NAMES}}),
]


def check_mmdetection(
    build: Callable[[int], Detector], backbone: str, meta: dict[str, Any], tmp_path: Path, prefix: str
) -> PublishedWeights:
    """What MMDetection writes of a detector fills another one, whose classes have another order."""
    source, model = build(80), build(80)
    for value in source.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value))
    state = {prefix + name: value for name, value in as_mmdetection(source.state_dict(), backbone).items()}
    history = {"loss": HistoryBuffer([1.0, 2.0], [1, 1])}
    torch.save({"state_dict": state, "meta": meta, "message_hub": {"log_scalars": history}}, tmp_path / "mm.pth")
    load_model_weights(model, BACKWARDS, tmp_path / "mm.pth")
    places = model.class_tensors()
    rows = {label: 79 - label for label in range(80)}
    loaded = model.state_dict()
    for name, value in source.state_dict().items():
        place = places.get(name)
        expected = value if place is None else place.take_over(value, value, rows)
        assert torch.equal(loaded[name], expected) or name.endswith("num_batches_tracked"), name
    found = read_published(tmp_path / "mm.pth")
    assert found is not None
    return found


@pytest.mark.parametrize(("backbone", "build", "meta"), SMALL, ids=["fork", "mm", "elsa"])
def test_mmdetections_layouts(
    backbone: str, build: Callable[[int], Detector], meta: dict[str, Any], tmp_path: Path
) -> None:
    check_mmdetection(build, backbone, meta, tmp_path, "module.")


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("detector", DETECTORS)
def test_mmdetections_layouts_in_full(detector: str, backbone: str, tmp_path: Path) -> None:
    found = check_mmdetection(lambda k: DETECTORS[detector](BACKBONES[backbone](), k), backbone, {}, tmp_path, "")
    assert found.title == f"MMDetection's {detector}, 81 outputs"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "key"), [("Faster R-CNN", "faster_r50"), ("Cascade R-CNN", "cascade_r50_agnostic")])
def test_mmdetections_own_names(kind: str, key: str, shared_data: Callable[[str], Path]) -> None:
    """The layouts that the tests write have exactly the names of MMDetection's own models."""
    content = json.loads((shared_data("mmdet-oracle") / "oracle.json").read_text())
    with torch.device("meta"):
        state = as_mmdetection(DETECTORS[kind](ResNet(50), 80).state_dict(), "resnet")
    assert state.keys() == set(content[key]["state_dict"])


def on_paper(build: Callable[[], Detector]) -> Detector:
    with torch.device("meta"):
        return build()


def file_of(detector: Detector, convention: Any) -> PublishedWeights:
    """What would be read of published weights with the options of a detector."""
    return PublishedDetector("nobody", type(detector), dict(detector.state_dict()), 81, NAMES, {}, convention)


TWO_STAGE: list[tuple[dict[str, Any], str]] = [
    ({"convention": "torchvision"}, ".convention torchvision"),
    ({"pyramid_norm": True}, ".pyramid_norm true"),
    ({"channels": 128}, ".channels 128"),
    ({"rpn": RPNOptions(convs=2)}, ".rpn.convs 2"),
    ({"box_head": BoxHeadOptions(convs=4, fcs=1)}, ".box_head.convs 4 --model.detector.box_head.fcs 1"),
    ({"box_head": AGNOSTIC}, ".box_head.regressors shared"),
    ({"mask_head": MaskHeadOptions(norm=True)}, ".mask_head.norm true"),
    ({"mask_head": MaskHeadOptions(convs=2)}, ".mask_head.convs 2"),
    ({"mask_head": MaskHeadOptions(masks="shared")}, ".mask_head.masks shared"),
]
DENSE: list[tuple[type[Detector], dict[str, Any], str]] = [
    (RetinaNet, {"head_norm": True}, ".head_norm true"),
    (RetinaNet, {"extra_levels": "p6p7_from_c5"}, ".extra_levels p6p7_from_c5"),
    (FCOS, {"num_convs": 2}, ".num_convs 2"),
]


class TestRefused:
    """Weights that do not fit the options, or fit and compute something else: one line says what to set."""

    @staticmethod
    def refused(model: Detector, weights: PublishedWeights) -> str:
        with pytest.raises(TaskError) as error:
            require_fitting(model, weights, "FILE")
        assert "\n" not in str(error.value)
        return str(error.value).partition("; give ")[2]

    @pytest.mark.parametrize(("options", "expected"), TWO_STAGE)
    def test_options_of_two_stages(self, options: dict[str, Any], expected: str) -> None:
        plain = on_paper(lambda: MaskRCNN(ResNet(18), 80))
        other = on_paper(lambda: MaskRCNN(ResNet(18), 6, **options))
        convention = options.get("convention", "mmdetection")
        assert self.refused(plain, file_of(other, convention)) == f"--model.detector{expected}"
        require_fitting(other, file_of(other, convention), "FILE")

    @pytest.mark.parametrize(("kind", "options", "expected"), DENSE)
    def test_options_of_dense_detectors(self, kind: Any, options: dict[str, Any], expected: str) -> None:
        plain, other = on_paper(lambda: kind(ResNet(18), 80)), on_paper(lambda: kind(ResNet(18), 6, **options))
        assert self.refused(plain, file_of(other, None)) == f"--model.detector{expected}"
        require_fitting(other, file_of(other, None), "FILE")

    def test_another_detector(self) -> None:
        plain, other = on_paper(lambda: FCOS(ResNet(18), 80)), on_paper(lambda: FasterRCNN(ResNet(18), 80))
        wanted = "--model.detector tasks.detectors.FasterRCNN"
        assert self.refused(plain, file_of(other, "mmdetection")) == wanted
        assert self.refused(plain, file_of(other, "torchvision")) == f"{wanted} --model.detector.convention torchvision"
        assert self.refused(other, file_of(plain, None)) == "--model.detector tasks.detectors.FCOS"

    def test_what_is_asked_for_can_be_given(self, shapes: Path) -> None:
        """The command line with the options of a refusal builds a model that fits."""
        weights = file_of(
            on_paper(lambda: MaskRCNN(ResNet(18), 80, mask_head=MaskHeadOptions(norm=True), **V2)), "torchvision"
        )
        options = ["--host.weights=null", "--model.detector=tasks.detectors.MaskRCNN"]
        recipe = CONFIGS / "detect" / "retinanet_1x.yaml"
        plain = build_task(recipe, shapes, *options, device="meta").model
        assert isinstance(plain, Detector)
        words = self.refused(plain, weights).split()
        fitting = build_task(recipe, shapes, *options, *words, device="meta").model
        require_fitting(fitting, weights, "FILE")

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ({"head.classification_head.module_list.0.weight": 1, "backbone.features.0.weight": 1}, "SSD"),
            ({"rpn_head.rpn_cls.weight": 1, "bbox_head.fc_cls.weight": 1}, "MMDetection 1"),
        ],
    )
    def test_known_layouts_of_what_is_not_here(self, content: dict[str, int], expected: str, tmp_path: Path) -> None:
        torch.save({name: torch.ones(size) for name, size in content.items()}, tmp_path / "a.pth")
        with pytest.raises(TaskError, match=expected):
            read_published(tmp_path / "a.pth")

    def test_caffe(self, tmp_path: Path) -> None:
        names = ["rpn_head.rpn_cls.weight", "roi_head.bbox_head.fc_cls.weight"]
        content = {"state_dict": dict.fromkeys(names, torch.ones(1)), "meta": {"config": "style='caffe'"}}
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(TaskError, match="Caffe"):
            read_published(tmp_path / "a.pth")

    def test_parts_that_the_model_lacks(self, tmp_path: Path) -> None:
        model = FasterRCNN(Swin(**TINY), 80, **NARROW)
        state = as_mmdetection(model.state_dict(), "fork")
        for extra, expected in (("roi_head.semantic_head.weight", "has besides 1"), ("backbone.se.weight", "have")):
            torch.save({**state, extra: torch.ones(1)}, tmp_path / "a.pth")
            with pytest.raises(TaskError, match=f"{expected}.*{extra.removeprefix('backbone.')}"):
                load_model_weights(model, NAMES, tmp_path / "a.pth")


class TestFile:
    """Files from before PyTorch 1.6 have no checksums but the one that their names end in."""

    def test_damage_is_found_by_the_name(self, tmp_path: Path) -> None:
        model = FasterRCNN(Swin(**TINY), 80, **NARROW)
        state = as_mmdetection(model.state_dict(), "fork")
        torch.save(state, tmp_path / "first.pth", _use_new_zipfile_serialization=False)
        content = (tmp_path / "first.pth").read_bytes()
        digest = sha256(content).hexdigest()
        good = tmp_path / f"mask-{digest[:8]}.pth"
        good.write_bytes(content)
        bad = tmp_path / f"mask_rcnn-{int(digest[0], 16) ^ 15:x}{digest[1:7]}a.pth"
        bad.write_bytes(content)
        if not digest[:8].isdigit():
            load_model_weights(model, NAMES, good)
        with pytest.raises(DamagedCheckpoint, match="SHA-256"):
            load_model_weights(model, NAMES, bad)

    def test_names_and_ids_of_its_classes(self, tmp_path: Path) -> None:
        state = {"rpn_head.rpn_cls.weight": torch.ones(1), "roi_head.bbox_head.fc_cls.weight": torch.ones(81, 1)}
        torch.save({"state_dict": state}, tmp_path / "a.pth")
        assert describe_weights_classes(tmp_path / "a.pth") == CheckpointClasses(NAMES, LABELS.tolist())
        state["roi_head.bbox_head.fc_cls.weight"] = torch.ones(3, 1)
        torch.save({"state_dict": state, "meta": {"CLASSES": ("elk", "hen")}}, tmp_path / "a.pth")
        assert describe_weights_classes(tmp_path / "a.pth") == CheckpointClasses(["elk", "hen"], None)
        torch.save({"state_dict": state}, tmp_path / "a.pth")
        assert describe_weights_classes(tmp_path / "a.pth") is None


class TestCommands:
    """One command, and no download for the backbone although the recipe asks for ImageNet's weights."""

    @pytest.fixture
    def arguments(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        def refuse(*_: object) -> None:
            raise AssertionError("weights are read for the backbone alone")

        monkeypatch.setattr(sys.modules["backbones.resnet"], "load_weights", refuse)
        torch.manual_seed(0)
        torch.save(before_0_13(small_retinanet().state_dict()), tmp_path / "published.pth")
        return [
            f"--config={CONFIGS}/detect/retinanet_1x.yaml",
            f"--data={CONFIGS}/data/shapes_detect.yaml",
            "--data.num_workers=0",
            "--model.backbone.depth=18",
            f"--model.weights={tmp_path}/published.pth",
            "--trainer.accelerator=cpu",
            f"--runs={tmp_path}/runs",
            "--name=test",
        ]

    def test_predict_knows_the_classes_of_the_file(self, arguments: list[str], tmp_path: Path) -> None:
        pixels = torch.randint(256, (96, 128, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        Image.fromarray(pixels.numpy()).save(tmp_path / "photo.png")
        images = [f"--data.images={tmp_path}/photo.png", f"--data.root={tmp_path}/nowhere"]
        detect.main(["predict", *arguments, *images, "--model.detector.score_threshold=0.0"])
        found = json.loads((tmp_path / "runs" / "detect" / "test" / "predictions" / "predictions.json").read_text())
        assert len(found) == 100 and {entry["category_id"] for entry in found} <= set(LABELS.tolist())

    @pytest.mark.slow
    def test_validate(self, arguments: list[str], shapes: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        detect.main(["validate", *arguments, f"--data.root={shapes}/coco", "--trainer.limit_val_batches=1"])
        assert "published.pth: torchvision's RetinaNet, 91 outputs; 0 of 6 classes" in caplog.text
