"""Augmentation against torchvision v2, MMSegmentation and a plain albumentations Compose with float output.

`python -m benchmarks.pipeline` augments photographs that are decoded beforehand, in one thread; ours ends in a uint8
tensor that is padded where the peer's is. First it checks that all resize alike. It also times JPEG decoding.
"""

import io
import os
import statistics
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import albumentations as A
import cv2
import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from benchmarks import pipeline_peers as peers
from benchmarks.measure import ROOT, Goal, finish, parse_options, ratio_goal, time_in_turn
from benchmarks.pipeline_peers import Photograph, Run
from datamodules import FixedSize, RandomRatioCrop, ShorterSide
from datamodules.collate import pad_images
from datamodules.image_dataset import to_tensor
from datamodules.images import list_images, read_image
from datamodules.instances import draw_masks, stack_masks
from datamodules.pipelines import Pipeline
from datamodules.resampling import Window, whole
from datamodules.sampling import SampleKey, seed_transforms

GOALS = {
    "shorter side 800": {"torchvision": 15.0, "albumentations": 2.0},
    "large-scale jitter 1024": {"torchvision": 1.7, "albumentations": 1.1},
    "instance masks, shorter side 800": {"torchvision": 5.0},
    "segmentation crop 512": {"torchvision": 5.0, "mmsegmentation": 3.0, "albumentations": 1.3},
}
"""How many times as many images per second as each peer."""

Item = TypeVar("Item")


def take_photographs(paths: list[Path]) -> list[Photograph]:
    """Decodes photographs and gives them 7 random boxes, COCO's average, with polygons, and a mask of random blocks."""
    random, photographs = np.random.default_rng(0), []
    for path in paths:
        image = read_image(path)
        height, width = image.shape[:2]
        corners = np.sort(random.random((7, 2, 2)), axis=1) * [width - 2, height - 2] + [[[0, 0], [2, 2]]]
        blocks = random.integers(0, 20, (6, 8), dtype=np.uint8)
        mask = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        boxes = corners.reshape(7, 4).astype(np.float32)
        photographs.append(Photograph(image, boxes, mask, [draw_polygon(random, box) for box in boxes]))
    return photographs


def draw_polygon(random: np.random.Generator, box: NDArray[np.float32]) -> list[list[float]]:
    """A segmentation as in COCO's file: one outline of 23 corners, COCO's average, in a box."""
    angles, radii = np.sort(random.uniform(0, 2 * np.pi, 23)), random.uniform(0.6, 1, 23)
    circle = 0.5 + 0.5 * radii[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
    return [np.round(box[:2] + circle * (box[2:] - box[:2]), 2).ravel().tolist()]


def augment_for_detection(pipeline: Pipeline) -> Run:
    """What a worker does between decoding and collating, and the padding to a fixed frame."""
    chain = detection_chain(pipeline)

    def run(photo: Photograph) -> object:
        seed_transforms(chain, 0, next_key())
        augmented = chain(image=photo.image, bboxes=photo.boxes, row=np.arange(len(photo.boxes)))
        return padded(to_tensor(augmented["image"]), pipeline.frame)

    return run


def augment_for_instances(pipeline: Pipeline) -> Run:
    """The same with the mask of each object, from polygons."""
    chain = detection_chain(pipeline)

    def run(photo: Photograph) -> object:
        seed_transforms(chain, 0, next_key())
        augmented = chain(image=photo.image, bboxes=photo.boxes, row=np.arange(len(photo.boxes)))
        window = chain.transforms[0].window
        segmentations = [photo.polygons[int(row)] for row in augmented["row"]]
        patches = draw_masks(segmentations, photo.image.shape[:2], window)
        masks = stack_masks([patch for patch in patches if patch.pixels.any()], window.size)
        return to_tensor(augmented["image"]), torch.from_numpy(masks)

    return run


def detection_chain(pipeline: Pipeline) -> A.Compose:
    """The training transforms, with boxes as `datamodules.COCO` has them."""
    params = A.BboxParams("pascal_voc", label_fields=["row"], clip=True, min_width=1, min_height=1)
    return A.Compose(pipeline.training(), bbox_params=params)


def augment_for_segmentation(pipeline: Pipeline) -> Run:
    """The same with a mask."""
    chain = A.Compose(pipeline.training())

    def run(photo: Photograph) -> object:
        seed_transforms(chain, 0, next_key())
        augmented = chain(image=photo.image, mask=photo.mask)
        mask = padded(torch.from_numpy(augmented["mask"]), pipeline.frame, value=255)
        return padded(to_tensor(augmented["image"]), pipeline.frame), mask

    return run


def padded(image: torch.Tensor, frame: tuple[int, int] | None, value: int = 0) -> torch.Tensor:
    """Pads an image that is smaller than the frame, as the transforms of the peers do."""
    return image if frame in (None, image.shape[-2:]) else pad_images([image], frame, value=value)[0]


_epochs = iter(range(10**9))


def next_key() -> SampleKey:
    """A new draw each time."""
    return SampleKey(next(_epochs), 0, False)


def variants() -> dict[str, dict[str, Run]]:
    """Ours and the peers, by pipeline."""
    return {
        "shorter side 800": {
            "ours": augment_for_detection(ShorterSide((800,), 1333, photometric=True)),
            "torchvision": peers.torchvision_shorter_side(),
            "albumentations": peers.albumentations_shorter_side(),
        },
        "large-scale jitter 1024": {
            "ours": augment_for_detection(FixedSize(1024, 1024, (0.1, 2.0))),
            "torchvision": peers.torchvision_large_scale_jitter(),
            "albumentations": peers.albumentations_large_scale_jitter(),
        },
        "instance masks, shorter side 800": {
            "ours": augment_for_instances(ShorterSide((800,), 1333)),
            "torchvision": peers.torchvision_instances(),
        },
        "segmentation crop 512": {
            "ours": augment_for_segmentation(RandomRatioCrop()),
            "torchvision": peers.torchvision_segmentation(),
            "mmsegmentation": peers.mmsegmentation(),
            "albumentations": peers.albumentations_segmentation(),
        },
    }


def check_equality(photographs: list[Photograph]) -> None:
    """Without random numbers all resize to the same picture, but for the rounding of the longer side's length."""
    for photo in photographs:
        ours = A.Compose(ShorterSide((800,), 1333).evaluation())(image=photo.image)["image"]
        plain = A.SmallestMaxSize(800)(image=photo.image)["image"]
        tensor = v2.functional.resize(torch.from_numpy(photo.image).permute(2, 0, 1), list(ours.shape[:2]))
        for theirs in (plain, tensor.permute(1, 2, 0).numpy()):
            if ours.dtype != np.uint8 or ours.shape != theirs.shape:
                raise AssertionError(f"ours is {ours.dtype} {ours.shape}, the peer's {theirs.shape}")
            difference = np.abs(ours.astype(int) - theirs).mean()
            if difference > 1:
                raise AssertionError(f"mean difference to the peer {difference:.2f} grey levels, expected at most 1")
        check_masks(photo, whole(photo.image.shape[:2], ours.shape[:2]))


def check_masks(photo: Photograph, window: Window) -> None:
    """Polygons that are drawn in the frame, and those that are drawn in the image and resized, differ at edges only."""
    ours = stack_masks(draw_masks(photo.polygons, photo.image.shape[:2], window), window.size)
    theirs = v2.functional.resize(peers.torchvision_masks(photo), list(window.size)).numpy()
    for mask, other, polygons in zip(ours, theirs, photo.polygons, strict=True):
        outline = window.move(np.reshape(polygons[0], (-1, 2)))
        length = np.linalg.norm(outline - np.roll(outline, 1, axis=0), axis=1).sum()
        most = length * max(window.size[0] / window.height, 1) + 4
        if np.count_nonzero(mask != other) > most:
            raise AssertionError(
                f"{np.count_nonzero(mask != other)} pixels of a mask differ, expected at most {most:.0f}"
            )


def time_decoders(paths: list[Path]) -> dict[str, list[float]]:
    """Seconds for all files, by decoder; simplejpeg and Pillow decode from memory, read_image from the file."""
    contents = [path.read_bytes() for path in paths]
    decoders: dict[str, Callable[[bytes], object]] = {
        "simplejpeg": simplejpeg.decode_jpeg,
        "Pillow": lambda content: np.asarray(Image.open(io.BytesIO(content)).convert("RGB")),
        "OpenCV": lambda content: cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR),
        "torchvision": lambda content: decode_jpeg(as_tensor(content), mode=ImageReadMode.RGB),
    }
    runs = {name: every(decoder, contents) for name, decoder in decoders.items()}
    return time_in_turn({"read_image": every(read_image, paths), **runs})


def as_tensor(content: bytes) -> torch.Tensor:
    """Bytes as a uint8 tensor."""
    pixels: NDArray[np.uint8] = np.frombuffer(content, np.uint8)
    return torch.from_numpy(pixels.copy())


def every(function: Callable[[Item], object], items: list[Item]) -> Callable[[], None]:
    """A call of the function for each item."""

    def run() -> None:
        for item in items:
            function(item)

    return run


def add_options(parser: ArgumentParser) -> None:
    """The benchmark's own options."""
    data = Path(os.environ.get("ATTNDENSE_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--images", default=str(data / "coco-free" / "train2017"), help="folder of JPEG photographs")
    parser.add_argument("--count", type=int, default=16, help="number of photographs")
    parser.add_argument("--rounds", type=int, default=5, help="counted runs of each variant")


def main() -> None:
    """Runs the benchmark."""
    options = parse_options(__doc__, add_options)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    paths = list_images(options.images)[: options.count]
    photographs = take_photographs(paths)
    check_equality(photographs)
    goals: list[Goal] = []
    tables = {"decoding": time_decoders(paths)}
    for name, runs in variants().items():
        timed = {who: every(run, photographs) for who, run in runs.items()}
        seconds = tables[name] = time_in_turn(timed, options.rounds)
        for peer, bound in GOALS[name].items():
            goals.append(ratio_goal(f"{name}, ours / {peer}", seconds[peer], seconds["ours"], bound))
    if not options.json:
        for name, seconds in tables.items():
            speeds = {who: len(paths) / statistics.median(spent) for who, spent in seconds.items()}
            print(f"{name}, images/s:", ", ".join(f"{who} {speed:.0f}" for who, speed in speeds.items()))  # noqa: T201
    finish(goals, options.json)


if __name__ == "__main__":
    main()
