"""The same weights give the same losses and the same boxes as torchvision's own models, on photographs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.io import ImageReadMode, decode_image
from torchvision.models.detection import fcos_resnet50_fpn, retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_convert, box_iou
from torchvision.transforms.functional import resize

from backbones import Backbone, MobileNetV2, ResNet
from tasks.detectors import FCOS, Detector, FocalSSDLite320, RetinaNet, SSDLite320
from tasks.detectors.ssdlite import SSDLite
from tasks.normalization import IMAGENET_MEAN, IMAGENET_STD

K = 91
WEIGHTLESS = {"weights": None, "weights_backbone": None, "num_classes": K, "min_size": 96, "max_size": 128}
SCALED = {
    "image_mean": [value / 255 for value in IMAGENET_MEAN],
    "image_std": [value / 255 for value in IMAGENET_STD],
}
V2 = {"extra_levels": "p6p7_from_c5", "head_norm": True, "box_loss": "giou"}
MODELS: dict[str, tuple[Callable[..., nn.Module], Callable[..., Detector], int]] = {
    "retinanet": (retinanet_resnet50_fpn, lambda b, **o: RetinaNet(b, K, **o), 34_068_119),
    "retinanet_v2": (retinanet_resnet50_fpn_v2, lambda b, **o: RetinaNet(b, K, **V2, **o), 38_198_935),
    "fcos": (fcos_resnet50_fpn, lambda b, **o: FCOS(b, K, **o), 32_322_720),
}


def photographs(folder: Path, sizes: list[tuple[int, int]]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """As many photographs with objects as sizes, in a frame that holds all of them, and their objects."""
    file = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    objects: dict[int, list[dict]] = {}
    for annotation in file["annotations"]:
        if not annotation["iscrowd"]:
            objects.setdefault(annotation["image_id"], []).append(annotation)
    chosen = [image for image in file["images"] if len(objects.get(image["id"], [])) > 1][: len(sizes)]
    frame = torch.zeros(
        len(sizes), 3, *(-(-max(side) // 32) * 32 for side in zip(*sizes, strict=True)), dtype=torch.uint8
    )
    targets = []
    for position, (image, (height, width)) in enumerate(zip(chosen, sizes, strict=True)):
        pixels = decode_image(str(folder / "val2017" / image["file_name"]), ImageReadMode.RGB)
        frame[position, :, :height, :width] = resize(pixels, [height, width], antialias=True)
        scale = torch.tensor([width / image["width"], height / image["height"]]).repeat(2)
        rows = torch.tensor([annotation["bbox"] for annotation in objects[image["id"]]])
        boxes = box_convert(rows, "xywh", "xyxy") * scale
        labels = torch.tensor([annotation["category_id"] % 80 for annotation in objects[image["id"]]])
        targets.append({"boxes": boxes, "labels": labels, "original_size": torch.tensor([height, width])})
    return frame, targets


def batch_of(frame: Tensor, sizes: list[tuple[int, int]], targets: list[dict[str, Tensor]]) -> dict:
    return {"image": frame, "size": torch.tensor(sizes), "targets": targets}


def assert_same_boxes(found: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> None:
    for left, right in zip(found, expected, strict=True):
        assert len(right["boxes"]) > 0 and torch.equal(left["labels"], right["labels"])
        torch.testing.assert_close(left["scores"], right["scores"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(left["boxes"], right["boxes"], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("name", MODELS)
def test_resnet50(name: str, shared_data: Callable[[str], Path]) -> None:
    make_peer, make, parameters = MODELS[name]
    torch.manual_seed(0)
    threshold = 0.01  # about half of the scores of an untrained classifier are above
    peer = make_peer(**WEIGHTLESS, **SCALED, score_thresh=threshold, detections_per_img=100)
    ours = make(ResNet(50), score_threshold=threshold)
    assert sum(parameter.numel() for parameter in ours.parameters()) == parameters
    ours.backbone.load_state_dict(peer.backbone.body.state_dict())
    ours.neck.fpn.load_state_dict(peer.backbone.fpn.state_dict())
    ours.head.load_state_dict(peer.head.state_dict())
    sizes = [(96, 128), (128, 96)]
    frame, targets = photographs(shared_data("coco-free"), sizes)
    images = [image[:, :height, :width] / 255 for image, (height, width) in zip(frame, sizes, strict=True)]
    wanted = [{name: target[name] for name in ("boxes", "labels")} for target in targets]

    expected, found = peer.train()(images, wanted), ours.train()(batch_of(frame, sizes, targets))
    assert expected.keys() == found.keys() and min(expected.values()) > 0
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert_same_boxes(ours.eval()(batch_of(frame, sizes, targets)), peer.eval()(images))


class Maps(nn.Module):
    """Our backbone and extra blocks as torchvision's SSD takes them."""

    def __init__(self, ours: SSDLite) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {str(level): maps for level, maps in enumerate(self.ours.neck(self.ours.backbone(image)))}


def test_ssdlite320(shared_data: Callable[[str], Path]) -> None:
    torch.manual_seed(0)
    backbone: Backbone = MobileNetV2(0.25, last_conv=True, tap_expansion=True)
    ours = SSDLite320(backbone, K - 1, max_detections=200)
    peer = SSD(
        Maps(ours),
        ours.anchor_generator,
        (320, 320),
        K,
        **SCALED,
        head=ours.head,
        score_thresh=0.001,
        nms_thresh=0.55,
        detections_per_img=200,
        topk_candidates=300,
    )
    sizes = [(320, 320)] * 2
    frame, targets = photographs(shared_data("coco-free"), sizes)
    wanted = [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets]
    ours.eval()  # one set of norms, in both models
    peer.training = ours.training = True
    expected, found = peer(list(frame / 255), wanted), ours(batch_of(frame, sizes, targets))
    assert expected.keys() == found.keys() and min(expected.values()) > 0
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-5)
    peer.training = ours.training = False
    with torch.no_grad():
        for layer in ours.head.classification_head.module_list:  # of an untrained one, scores are as good as equal
            layer[1].bias.add_(torch.randn_like(layer[1].bias) * 3)
            layer[1].weight.mul_(40)
        boxes = peer(list(frame / 255))
        assert_same_boxes(
            ours(batch_of(frame, sizes, targets)), [{**found, "labels": found["labels"] - 1} for found in boxes]
        )


def test_focal_ssdlite320_against_the_papers_words(shared_data: Callable[[str], Path]) -> None:
    """Losses by loops: sigmoid focal loss over 81 outputs five times, smooth L1 loss, both through the positives."""
    torch.manual_seed(0)
    ours = FocalSSDLite320(MobileNetV2(0.25, last_conv=True), 80).eval()
    frame, targets = photographs(shared_data("coco-free"), [(320, 320)] * 2)
    batch = batch_of(frame, [(320, 320)] * 2, targets)
    pixels = frame - torch.tensor([123.0, 117.0, 104.0]).view(3, 1, 1)
    with torch.no_grad():
        maps = ours.neck(ours.backbone(pixels))
        outputs = ours.head(maps)
        ours.training = True
        found = ours(batch)
    anchors = ours.anchors(ours.image_list(batch), maps)[0]
    torch.testing.assert_close(anchors, torch.tensor(default_boxes()), rtol=1e-5, atol=1e-4)
    boxes = anchors.tolist()
    classes = distances = count = 0.0
    for position, target in enumerate(targets):
        overlaps = box_iou(target["boxes"], anchors)  # equal for all equal boxes inside an object, but for rounding
        owner = torch.where(overlaps.max(0).values >= 0.5, overlaps.max(0).indices, -1)
        for number, place in enumerate(overlaps.max(1).indices):
            owner[place] = number
        wanted = torch.zeros(len(boxes), 81)
        for anchor, number in enumerate(owner.tolist()):
            if number < 0:
                continue
            count += 1
            wanted[anchor, target["labels"][number]] = 1
            x0, y0, x1, y1 = boxes[anchor]
            left, top, right, bottom = target["boxes"][number].tolist()
            width, height = x1 - x0, y1 - y0
            codes = torch.tensor(
                [
                    ((left + right) - (x0 + x1)) / 2 / width / 0.1,
                    ((top + bottom) - (y0 + y1)) / 2 / height / 0.1,
                    torch.tensor((right - left) / width).log() / 0.2,
                    torch.tensor((bottom - top) / height).log() / 0.2,
                ]
            )
            gap = (outputs["bbox_regression"][position, anchor] - codes).abs()
            distances += torch.where(gap < 1, gap**2 / 2, gap - 0.5).sum()
        p = outputs["cls_logits"][position].sigmoid()
        right = wanted * 0.25 * (1 - p) ** 2 * -p.log()
        classes += 5 * (right + (1 - wanted) * 0.75 * p**2 * -(1 - p).log()).sum()
    torch.testing.assert_close(found["bbox_regression"], distances / count, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["classification"], classes / count, rtol=1e-4, atol=1e-5)


def default_boxes() -> list[list[float]]:
    """xyxy in pixels of 320 x 320, in the order map, row, column, shape; widths and heights end at the image's."""
    sides, larger = (45, 90, 135, 180, 225, 270), (90, 135, 180, 225, 270, 315)
    found = []
    for cells, stride, small, large, ratios in zip(
        (20, 10, 5, 3, 2, 1), (16, 32, 64, 120, 160, 320), sides, larger, [(2, 3)] * 5 + [(2,)], strict=True
    ):
        shapes = [(small, small), ((small * large) ** 0.5,) * 2]
        for ratio in ratios:
            shapes += [(small * ratio**0.5, small / ratio**0.5), (small / ratio**0.5, small * ratio**0.5)]
        for row in range(cells):
            for column in range(cells):
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                for w, h in shapes:
                    w, h = min(w, 320), min(h, 320)
                    found.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return found
