"""Weights of whole detectors in torchvision's and MMDetection's layout, by `--model.weights`."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from backbones import ResNet, Swin
from tasks.detectors import CascadeMaskRCNN, FasterRCNN, MaskRCNN
from tasks.detectors.conversions import from_mmdetection, from_torchvision
from tasks.detectors.two_stage.options import BoxHeadOptions, MaskHeadOptions
from tasks.errors import TaskError
from tasks.foreign_weights import COCO_CLASSES, TORCHVISION_CLASSES
from tasks.weights import load_model_weights
from tests.tasks.detectors.two_stage.test_mmdetection_oracle import tensor_of

LAYERS = {"weight", "bias"}
NORM = LAYERS | {"running_mean", "running_var", "num_batches_tracked"}


def test_classes_of_coco() -> None:
    assert len(COCO_CLASSES) == 80 and len(TORCHVISION_CLASSES) == 91
    assert (COCO_CLASSES[0], COCO_CLASSES[11], COCO_CLASSES[-1]) == ("person", "stop sign", "toothbrush")


def mmdetection_names(stages: int | None, convs: int, fcs: int) -> set[str]:
    """Names of neck and heads with masks, as MMDetection's modules nest; None for one stage without a number."""
    names = {
        f"neck.{conv}.{level}.conv.{kind}"
        for conv in ("lateral_convs", "fpn_convs")
        for level in range(4)
        for kind in LAYERS
    }
    names |= {f"rpn_head.{layer}.{kind}" for layer in ("rpn_conv", "rpn_cls", "rpn_reg") for kind in LAYERS}
    for stage in [""] if stages is None else [f"{number}." for number in range(stages)]:
        box, mask = f"roi_head.bbox_head.{stage}", f"roi_head.mask_head.{stage}"
        names |= {f"{box}{layer}.{kind}" for layer in ("fc_cls", "fc_reg") for kind in LAYERS}
        names |= {f"{box}shared_fcs.{index}.{kind}" for index in range(fcs) for kind in LAYERS}
        names |= {f"{box}shared_convs.{index}.conv.weight" for index in range(convs)}
        names |= {f"{box}shared_convs.{index}.bn.{kind}" for index in range(convs) for kind in NORM}
        names |= {f"{mask}convs.{index}.conv.{kind}" for index in range(4) for kind in LAYERS}
        names |= {f"{mask}{layer}.{kind}" for layer in ("upsample", "conv_logits") for kind in LAYERS}
    return names


@pytest.mark.parametrize(("stages", "convs", "fcs"), [(None, 0, 2), (3, 4, 1), (3, 0, 2)])
def test_names_of_mmdetection(stages: int | None, convs: int, fcs: int) -> None:
    names = mmdetection_names(stages, convs, fcs)
    box = BoxHeadOptions(convs=convs, fcs=fcs)
    with torch.device("meta"):
        model = MaskRCNN(Swin(), 80) if stages is None else CascadeMaskRCNN(Swin(), 80, box_head=box)
    own = {name for name in model.state_dict() if not name.startswith("backbone.")}
    converted = from_mmdetection({name: name for name in names})  # type: ignore[misc]  # names instead of tensors
    assert converted.keys() == own and len(converted) == len(names)


def small_mask_rcnn(num_classes: int, convention: str) -> MaskRCNN:
    box, mask = BoxHeadOptions(fc_channels=8), MaskHeadOptions(channels=8)
    return MaskRCNN(ResNet(18), num_classes, convention, channels=8, box_head=box, mask_head=mask)


def test_mmdetection_file(tmp_path: Path) -> None:
    """As MMDetection 3 writes it, with classes of its own; two of them are wanted."""
    model, names = small_mask_rcnn(2, "mmdetection"), ["cat", "dog", "cow"]
    wide = small_mask_rcnn(3, "mmdetection").state_dict()
    foreign_names = [*mmdetection_names(None, 0, 2), *(name for name in wide if name.startswith("backbone."))]
    ours = from_mmdetection({name: name for name in foreign_names})  # type: ignore[misc]
    foreign = {
        theirs: tensor_of(theirs, wide[name].shape) if wide[name].is_floating_point() else wide[name]
        for name, theirs in ours.items()
    }
    path = tmp_path / "epoch_12.pth"
    torch.save({"meta": {"dataset_meta": {"CLASSES": tuple(names)}}, "state_dict": foreign}, path)
    load_model_weights(model, ["cow", "cat"], path)
    state, rows = model.state_dict(), {0: 2, 1: 0, 2: 3}  # background behind the classes
    for new, old in rows.items():
        for kind in LAYERS:
            assert torch.equal(
                state[f"box_heads.0.cls_score.{kind}"][new], foreign[f"roi_head.bbox_head.fc_cls.{kind}"][old]
            )
            if new < 2:
                offsets, masks = (
                    foreign[f"roi_head.{name}.{kind}"] for name in ("bbox_head.fc_reg", "mask_head.conv_logits")
                )
                own = state[f"box_heads.0.bbox_pred.{kind}"]
                assert torch.equal(own[4 * new : 4 * new + 4], offsets[4 * old : 4 * old + 4])
                assert torch.equal(state[f"mask_heads.0.predictor.mask_fcn_logits.{kind}"][new], masks[old])
    assert torch.equal(state["backbone.layer2.0.bn1.running_var"], foreign["backbone.layer2.0.bn1.running_var"])
    with pytest.raises(TaskError, match=r"is of mmdetection, and the detector has convention=torchvision"):
        load_model_weights(small_mask_rcnn(3, "torchvision"), names, path)


class TestTorchvision:
    """A model of torchvision's, with names as it has published them."""

    @staticmethod
    def peer(norm: type) -> torch.nn.Module:
        torch.manual_seed(0)
        backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=norm, trainable_layers=5)
        model = TorchvisionMaskRCNN(backbone, num_classes=91, _skip_resize=True).eval()
        with torch.no_grad():
            for name, value in model.state_dict().items():
                if name.endswith(("running_var", "bias")):
                    value.copy_(0.5 + torch.rand_like(value) if name.endswith("var") else torch.randn_like(value))
        return model

    @staticmethod
    def published(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """With the names of the first versions, before torchvision's blocks of convolution and norm."""
        old = {}
        for name, value in state.items():
            new = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
            for index in range(4):
                new = new.replace(f"roi_heads.mask_head.{index}.0.", f"roi_heads.mask_head.mask_fcn{index + 1}.")
                for block in ("inner", "layer"):
                    new = new.replace(f"fpn.{block}_blocks.{index}.0.", f"fpn.{block}_blocks.{index}.")
            old[new] = value
        assert len(old) == len(state) and "rpn.head.conv.weight" in old
        return old

    def test_file(self, tmp_path: Path) -> None:
        """91 outputs become 80 classes by name; frozen norms divided without an epsilon."""
        peer = self.peer(FrozenBatchNorm2d)
        for module in peer.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = 0.0  # as torchvision does behind its published weights
        state = peer.state_dict()
        model = MaskRCNN(ResNet(18, norms="eval"), 80, "torchvision").eval()
        path = tmp_path / "maskrcnn_resnet18_fpn_coco.pth"
        torch.save(self.published(state), path, _use_new_zipfile_serialization=False)
        load_model_weights(model, COCO_CLASSES, path)
        own = model.state_dict()
        for label, name in enumerate(COCO_CLASSES):
            row = TORCHVISION_CLASSES.index(name)
            assert torch.equal(
                own["box_heads.0.cls_score.bias"][label + 1], state["roi_heads.box_predictor.cls_score.bias"][row]
            )
            assert torch.equal(
                own["box_heads.0.bbox_pred.weight"].view(81, 4, -1)[label + 1],
                state["roi_heads.box_predictor.bbox_pred.weight"].view(91, 4, -1)[row],
            )
            assert torch.equal(
                own["mask_heads.0.predictor.mask_fcn_logits.weight"][label + 1],
                state["roi_heads.mask_predictor.mask_fcn_logits.weight"][row],
            )
        assert torch.equal(own["box_heads.0.cls_score.bias"][0], state["roi_heads.box_predictor.cls_score.bias"][0])
        image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            maps = model.neck(model.backbone(image))
            for found, expected in zip(maps, peer.backbone(image).values(), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)

    def test_names_of_the_second_version(self) -> None:
        state = self.peer(torch.nn.BatchNorm2d).state_dict()
        model = MaskRCNN(ResNet(18), 90, "torchvision")
        assert from_torchvision(state).keys() == model.state_dict().keys()
        model.load_state_dict(from_torchvision(self.published(state)))
        assert torch.equal(model.state_dict()["backbone.bn1.running_var"], state["backbone.body.bn1.running_var"])


def test_convention_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(
        {"backbone.body.conv1.weight": torch.zeros(1), "roi_heads.box_predictor.cls_score.bias": torch.zeros(91)}, path
    )
    with torch.device("meta"):
        model = FasterRCNN(ResNet(18), 80)
    with pytest.raises(TaskError, match=r"use --model.detector.convention torchvision"):
        load_model_weights(model, COCO_CLASSES, path)
