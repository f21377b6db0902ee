"""What our detectors cost against torchvision's own models of the same weights: training steps and inference.

    python -m benchmarks.detect_step [--json] [--only retinanet ...] [--height 480 --width 640]

Photographs of the same size in one batch, as uint8 for ours and as floats for torchvision's, which normalise and batch
for themselves. Losses and boxes are compared first. Steps are forward, backward and optimiser, without a framework.
"""

import contextlib
import io
import os
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from torch import Tensor, nn
from torchvision.io import ImageReadMode, decode_image
from torchvision.ops import box_convert
from torchvision.transforms.functional import InterpolationMode, resize

from benchmarks.detect_pairs import CASES, Pair
from benchmarks.measure import ROOT, Goal, finish, keep_freed_memory, parse_options, ratio_goal, time_in_turn


def photographs(folder: Path, count: int, size: tuple[int, int]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """The first photographs with objects, (count, 3, H, W) uint8, and their objects."""
    with contextlib.redirect_stdout(io.StringIO()):
        file = COCO(folder / "annotations" / "instances_train2017.json")
    images, targets = [], []
    for image in sorted(file.imgs):
        found = file.loadAnns(file.getAnnIds(image, iscrowd=0))
        if not found or len(images) == count:
            continue
        facts = file.imgs[image]
        pixels = decode_image(str(folder / "train2017" / facts["file_name"]), ImageReadMode.RGB)
        images.append(resize(pixels, list(size), antialias=True))
        scale = torch.tensor([size[1] / facts["width"], size[0] / facts["height"]]).repeat(2)
        boxes = box_convert(torch.tensor([annotation["bbox"] for annotation in found]), "xywh", "xyxy") * scale
        labels = torch.tensor([annotation["category_id"] - 1 for annotation in found])
        masks = torch.from_numpy(np.stack([file.annToMask(annotation) for annotation in found]))
        targets.append(
            {
                "boxes": boxes,
                "labels": labels,
                "masks": resize(masks, list(size), InterpolationMode.NEAREST),
                "crowd": torch.zeros(0, 4),
                "original_size": torch.tensor(size),
            }
        )
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


def check_losses(pair: Pair, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Both compute the same losses."""
    theirs = {pair.names.get(name, name): loss for name, loss in theirs.items()}
    if ours.keys() != theirs.keys():
        raise AssertionError(f"losses are {[*ours]} and {[*theirs]}")
    for name, loss in ours.items():
        torch.testing.assert_close(loss, theirs[name], rtol=1e-4, atol=1e-5)


def check_boxes(pair: Pair, ours: list[dict[str, Tensor]], theirs: list[dict[str, Tensor]]) -> None:
    """Both find the same boxes."""
    for found, expected in zip(ours, theirs, strict=True):
        rows = [
            torch.cat([side["boxes"], 1e4 * side["labels"][:, None], 100 * side["scores"][:, None]], dim=1).double()
            for side in (found, expected)
        ]
        rows[1][:, 4] -= 1e4 * pair.background
        if not 0 < len(rows[0]) == len(rows[1]):
            raise AssertionError(f"{len(rows[0])} boxes, torchvision has {len(rows[1])}")
        distance, partner = torch.cdist(rows[1], rows[0], compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
        if distance.max() > 0.05 or len(partner.unique()) < len(partner):
            raise AssertionError(f"a box is {distance.max():.3f} (pixels, score in percent) from torchvision's")


def measure(name: str, folder: Path, size: tuple[int, int], count: int, rounds: int) -> Iterator[Goal]:
    """The goals of a case."""
    torch.manual_seed(0)
    pair = CASES[name](size)
    size = pair.size or size
    frame, targets = photographs(folder, count, size)
    batch = {"image": frame, "size": torch.tensor([size] * count), "targets": targets}
    images = list(frame / 255)
    wanted = [{**target, "labels": target["labels"] + pair.background} for target in targets]

    steps = {"ours": step(pair.ours, batch), "torchvision": step(pair.peer, images, wanted)}
    for module in (*pair.ours.modules(), *pair.peer.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # one step sets the statistics, so that scores differ as after training
    losses = [run() for run in steps.values()]
    if pair.twin is None:
        check_losses(pair, *losses)
    else:
        with torch.no_grad():
            check_losses(pair, pair.twin.ours(batch), pair.twin.peer(images, wanted))
    pair.ours.eval(), pair.peer.eval()
    with torch.no_grad():
        runs = {"ours": lambda: pair.ours(batch), "torchvision": lambda: pair.peer(images)}
        check_boxes(pair, *(run() for run in runs.values()))
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
