"""What our detectors cost against torchvision's own models of the same weights: training steps and inference.

    python -m benchmarks.detect_step [--json] [--only retinanet ...] [--height 480 --width 640]

Photographs of the same size in one batch, as uint8 for ours and as floats for torchvision's, which normalise and batch
for themselves. Losses and boxes are compared first. Steps are forward, backward and optimiser, without a framework.
"""

import json
import os
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.io import ImageReadMode, decode_image
from torchvision.models.detection import (
    fcos_resnet50_fpn,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
    ssdlite320_mobilenet_v3_large,
)
from torchvision.ops import box_convert
from torchvision.transforms.functional import resize

from backbones import Backbone, ResNet
from benchmarks.measure import ROOT, Goal, finish, keep_freed_memory, parse_options, ratio_goal, time_in_turn
from tasks.detectors import FCOS, Detector, RetinaNet, SSDLite320
from tasks.normalization import IMAGENET_MEAN, IMAGENET_STD

K = 91
THRESHOLD = 0.01  # of an untrained classifier, whose scores are near it; half of them pass
UNIT = {"image_mean": [value / 255 for value in IMAGENET_MEAN], "image_std": [value / 255 for value in IMAGENET_STD]}


@dataclass(frozen=True)
class Pair:
    """A detector of ours and torchvision's with the same weights.

    Attributes:
        ours: Takes a batch of `datamodules.COCO`.
        peer: Takes lists of images and targets.
        background: Labels of torchvision's begin with so many classes of background.
        training: Most that our training step may cost, relative to torchvision's; None where it is not measured.
        inference: The same for inference.
        size: Height and width of the images; None for those of the command line.
    """

    ours: Detector
    peer: nn.Module
    background: int = 0
    training: float | None = 1.05
    inference: float = 1.02
    size: tuple[int, int] | None = None


def with_pyramid(make_peer: Callable[..., nn.Module], ours: Detector, size: tuple[int, int]) -> Pair:
    """A pair of torchvision's models with a ResNet-50 and a feature pyramid."""
    peer = make_peer(
        weights=None,
        weights_backbone=None,
        num_classes=K,
        min_size=min(size),
        max_size=max(size),
        score_thresh=THRESHOLD,
        detections_per_img=100,
        **UNIT,
    )
    ours.backbone.load_state_dict(peer.backbone.body.state_dict())
    ours.neck.fpn.load_state_dict(peer.backbone.fpn.state_dict())  # type: ignore[attr-defined]
    ours.head.load_state_dict(peer.head.state_dict())  # type: ignore[attr-defined]
    return Pair(ours, peer)


def retinanet(size: tuple[int, int]) -> Pair:
    """RetinaNet's first form."""
    return with_pyramid(retinanet_resnet50_fpn, RetinaNet(ResNet(50), K, score_threshold=THRESHOLD), size)


def retinanet_v2(size: tuple[int, int]) -> Pair:
    """RetinaNet's second form: normalised head, GIoU loss."""
    ours = RetinaNet(
        ResNet(50), K, extra_levels="p6p7_from_c5", head_norm=True, box_loss="giou", score_threshold=THRESHOLD
    )
    return with_pyramid(retinanet_resnet50_fpn_v2, ours, size)


def fcos(size: tuple[int, int]) -> Pair:
    """FCOS."""
    return with_pyramid(fcos_resnet50_fpn, FCOS(ResNet(50), K, score_threshold=THRESHOLD), size)


class Taps(Backbone):
    """torchvision's MobileNetV3 with the maps that its SSDLite reads."""

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.channels, self.strides = (672, 480), (16, 32)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Both maps."""
        first = self.features[0](x)
        return [first, self.features[1](first)]

    def stages(self) -> list[list[nn.Module]]:
        """In one piece."""
        return [[self.features]]


def ssdlite(background: float) -> Pair:
    """SSDLite320 on MobileNetV3, whose boxes are the surer the background, the higher its bias."""
    peer = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=K, detections_per_img=100, **UNIT
    )
    ours = SSDLite320(Taps(peer.backbone.features), K - 1)
    with torch.no_grad():
        for layer in peer.head.classification_head.module_list:
            bias = layer[1].bias.view(-1, K)
            bias.add_(torch.randn_like(bias))
            bias[:, 0] += background
    ours.extras.load_state_dict(peer.backbone.extra.state_dict())
    ours.head.load_state_dict(peer.head.state_dict())
    return Pair(ours, peer, background=1, training=1.05, inference=1 / 1.5, size=(320, 320))


CASES: dict[str, Callable[[tuple[int, int]], Pair]] = {
    "retinanet": retinanet,
    "retinanet_v2": retinanet_v2,
    "fcos": fcos,
    "ssdlite": lambda size: ssdlite(background=7.0),  # one score in thirty passes
    "ssdlite, all scores pass": lambda size: ssdlite(background=0.0),
}
"""Pairs by name; a further detector is a further line."""


def photographs(folder: Path, count: int, size: tuple[int, int]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """The first photographs with objects, (count, 3, H, W) uint8, and their objects."""
    file = json.loads((folder / "annotations" / "instances_train2017.json").read_text())
    objects: dict[int, list[dict[str, Any]]] = {}
    for annotation in file["annotations"]:
        if not annotation["iscrowd"]:
            objects.setdefault(annotation["image_id"], []).append(annotation)
    chosen = [image for image in file["images"] if image["id"] in objects][:count]
    images, targets = [], []
    for image in chosen:
        pixels = decode_image(str(folder / "train2017" / image["file_name"]), ImageReadMode.RGB)
        images.append(resize(pixels, list(size), antialias=True))
        scale = torch.tensor([size[1] / image["width"], size[0] / image["height"]]).repeat(2)
        found = objects[image["id"]]
        boxes = box_convert(torch.tensor([annotation["bbox"] for annotation in found]), "xywh", "xyxy") * scale
        labels = torch.tensor([annotation["category_id"] - 1 for annotation in found])
        targets.append({"boxes": boxes, "labels": labels, "original_size": torch.tensor(size)})
    return torch.stack(images), targets


def step(model: nn.Module, *inputs: Any) -> Callable[[], dict[str, Tensor]]:
    """A training step that changes no weights."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)

    def run() -> dict[str, Tensor]:
        losses: dict[str, Tensor] = model(*inputs)
        optimizer.zero_grad()
        torch.stack([*losses.values()]).sum().backward()
        optimizer.step()
        return losses

    return run


def check_equality(pair: Pair, losses: list[dict[str, Tensor]], boxes: list[list[dict[str, Tensor]]]) -> None:
    """Both compute the same losses and the same boxes."""
    ours, theirs = losses
    if ours.keys() != theirs.keys():
        raise AssertionError(f"losses are {[*ours]} and {[*theirs]}")
    for name, loss in ours.items():
        torch.testing.assert_close(loss, theirs[name], rtol=1e-4, atol=1e-5)
    for found, expected in zip(*boxes, strict=True):
        if not len(expected["boxes"]) or not torch.equal(found["labels"], expected["labels"] - pair.background):
            raise AssertionError("the boxes differ")
        torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=1e-4, atol=1e-2)


def measure(name: str, folder: Path, size: tuple[int, int], count: int, rounds: int) -> Iterator[Goal]:
    """The goals of a case."""
    torch.manual_seed(0)
    pair = CASES[name](size)
    size = pair.size or size
    frame, targets = photographs(folder, count, size)
    batch = {"image": frame, "size": torch.tensor([size] * count), "targets": targets}
    images = list(frame / 255)
    wanted = [{"boxes": target["boxes"], "labels": target["labels"] + pair.background} for target in targets]

    pair.ours.train(), pair.peer.train()
    steps = {"ours": step(pair.ours, batch), "torchvision": step(pair.peer, images, wanted)}
    state = {name: value.clone() for name, value in pair.ours.backbone.state_dict().items()}
    losses = []
    for run in steps.values():  # ours of SSDLite shares its backbone with torchvision's, norms included
        losses.append(run())
        pair.ours.backbone.load_state_dict(state)
    pair.ours.eval(), pair.peer.eval()
    with torch.no_grad():
        runs = {"ours": lambda: pair.ours(batch), "torchvision": lambda: pair.peer(images)}
        check_equality(pair, losses, [run() for run in runs.values()])
        seconds = time_in_turn(runs, rounds, at_least=0.5)
    yield ratio_goal(f"{name}, inference, ours / torchvision", *seconds.values(), pair.inference, False)
    if pair.training is not None:
        pair.ours.train(), pair.peer.train()
        seconds = time_in_turn(steps, rounds)
        yield ratio_goal(f"{name}, training step, ours / torchvision", *seconds.values(), pair.training, False)


def add_options(parser: ArgumentParser) -> None:
    """The benchmark's own options."""
    data = Path(os.environ.get("ATTNDENSE_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="detectors; default: all")
    parser.add_argument("--images", type=Path, default=data / "coco-free", help="folder of photographs in COCO's form")
    parser.add_argument("--height", type=int, default=480, help="height of the images in pixels")
    parser.add_argument("--width", type=int, default=640, help="width of the images in pixels")
    parser.add_argument("--count", type=int, default=2, help="images of a batch")
    parser.add_argument("--rounds", type=int, default=7, help="counted runs of each")


def main() -> None:
    """Runs the benchmark."""
    options = parse_options("Cost of our detectors relative to torchvision's.", add_options)
    keep_freed_memory()
    torch.set_num_threads(1)
    goals = (
        goal
        for name in options.only
        for goal in measure(name, options.images, (options.height, options.width), options.count, options.rounds)
    )
    finish(goals, options.json)


if __name__ == "__main__":
    main()
