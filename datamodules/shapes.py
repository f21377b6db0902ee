"""Write the embedded sample data set: drawn shapes in the layouts of COCO 2017 and ADE20K.

    python -m datamodules.shapes --root DIR --seed 0 --train 640 --val 96

The same scenes (`datamodules.shapes_scene`) are written twice, with the same JPEG bytes:

    DIR/shapes.json                                         the parameters; a call with the same ones does nothing
    DIR/coco/{train,val}2017/000000000001.jpg               images, long side 160 px
    DIR/coco/annotations/instances_{train,val}2017.json     boxes, polygons and crowds of six kinds of shape
    DIR/ade20k/images/{training,validation}/ADE_{train,val}_00000001.jpg
    DIR/ade20k/annotations/{training,validation}/ADE_{train,val}_00000001.png       0 = other, 1..9 = class
    DIR/ade20k/objectInfo9.csv                              the nine classes: the shapes, then the background textures

The same seed gives the same bytes on every machine with the pinned packages, and scene i does not depend on how many
are written. For tests, for a first training in minutes without a download, and as an example of both layouts.
"""

import io
import json
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jsonargparse import auto_cli
from jsonargparse.typing import NonNegativeInt, PositiveInt
from PIL import Image

from configs.mistakes import end_with
from configs.version import version_line
from datamodules.command_parser import OneLineParser
from datamodules.errors import DataError
from datamodules.shapes_scene import KINDS, NAMES, Instance, Mask, Pixels, Scene, draw_scene

MARKER = "shapes.json"
VERSION = 1  # of the drawing: raise it when the bytes of a seed change
_UNFINISHED = ".shapes-unfinished"

Annotation = dict[str, Any]


class Split(NamedTuple):
    """Names of one split in both layouts."""

    number: int
    coco: str
    ade20k: str
    prefix: str


SPLITS = (Split(0, "train2017", "training", "ADE_train"), Split(1, "val2017", "validation", "ADE_val"))


class Presence(NamedTuple):
    """Where each label is found in a split: pixels and images, both (K + 1,)."""

    pixels: np.ndarray[tuple[int], np.dtype[np.int64]]
    images: np.ndarray[tuple[int], np.dtype[np.int64]]


def write_shapes(root: Path, seed: NonNegativeInt = 0, train: PositiveInt = 640, val: PositiveInt = 96) -> str:
    """Write the embedded sample data set: drawn shapes in the layouts of COCO 2017 and ADE20K.

    Args:
        root: Folder to write to, made when absent. Refused when it holds anything else.
        seed: The same seed draws the same scenes.
        train: Number of training images.
        val: Number of validation images.

    Returns:
        What was done, in one line.

    Raises:
        DataError: `root` holds something else.
    """
    parameters = {"format": "shapes", "version": VERSION, "seed": seed, "train": train, "val": val}
    if _holds(root, parameters):
        return f"{root}: already holds the shapes of seed {seed} ({train} train, {val} val); nothing to do"
    unfinished = root / _UNFINISHED  # an interrupted call leaves only this folder, which the next call replaces
    shutil.rmtree(unfinished, ignore_errors=True)
    presences = [_write_split(unfinished, seed, *pair) for pair in zip(SPLITS, (train, val), strict=True)]
    write_classes(unfinished / "ade20k", presences)
    for layout in ("coco", "ade20k"):
        (unfinished / layout).rename(root / layout)
    (root / MARKER).write_text(_json(parameters) + "\n", encoding="utf-8", newline="\n")
    unfinished.rmdir()
    return f"{root}: wrote {train} train and {val} val scenes of seed {seed} to coco/ and to ade20k/"


def _holds(root: Path, parameters: dict[str, Any]) -> bool:
    """Whether exactly this data set is at `root`; an error when something else is."""
    if not root.exists():
        return False
    if not root.is_dir():
        raise DataError(f"{root} is a file; give --root a folder")
    present = _marked(root)
    strangers = sorted(path.name for path in root.iterdir() if path.name != _UNFINISHED)
    if present is None and strangers:
        raise DataError(f"{root} holds {strangers[0]!r} and is no data set of shapes; give --root a new folder")
    if present not in (None, parameters):
        raise DataError(f"{root} holds {_json(present)}, not {_json(parameters)}; delete it or give another --root")
    return present == parameters


def _marked(root: Path) -> object:
    """Parameters of the data set at `root`; None when there is none."""
    try:
        return json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _write_split(root: Path, seed: int, split: Split, count: int) -> Presence:
    """Draw the scenes of one split and write them in both layouts."""
    coco, ade20k = root / "coco", root / "ade20k"
    folders = (
        coco / "annotations",
        coco / split.coco,
        ade20k / "images" / split.ade20k,
        ade20k / "annotations" / split.ade20k,
    )
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    _, photos, pictures, labels = folders
    images: list[dict[str, Any]] = []
    annotations: list[Annotation] = []
    presence = Presence(np.zeros(len(NAMES) + 1, np.int64), np.zeros(len(NAMES) + 1, np.int64))
    for image_id in range(1, count + 1):
        scene = draw_scene(seed, split.number, image_id - 1)
        jpeg = _jpeg(scene.image)
        (photos / f"{image_id:012d}.jpg").write_bytes(jpeg)
        (pictures / f"{split.prefix}_{image_id:08d}.jpg").write_bytes(jpeg)
        (labels / f"{split.prefix}_{image_id:08d}.png").write_bytes(png(scene.labels))
        images.append(image_entry(scene, image_id))
        for instance in scene.instances:
            annotations.append(annotation(instance, len(annotations) + 1, image_id))
        pixels = np.bincount(scene.labels.ravel(), minlength=len(NAMES) + 1)
        presence.pixels[:] += pixels
        presence.images[:] += pixels > 0
    write_instances(coco / "annotations" / f"instances_{split.coco}.json", images, annotations)
    return presence


def _jpeg(image: Pixels) -> bytes:
    """Encode (H, W, 3) RGB."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    return file.getvalue()


def png(labels: Pixels) -> bytes:
    """Encode (H, W) labels as one channel of 8 bits."""
    file = io.BytesIO()
    # Run-length matches only: zlib's and zlib-ng's other match finders may give other bytes on another processor.
    Image.fromarray(labels).save(file, "PNG", compress_type=zlib.Z_RLE)
    return file.getvalue()


def _json(value: object) -> str:
    """The one way a value is written."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def write_instances(path: Path, images: list[dict[str, Any]], annotations: list[Annotation]) -> None:
    """Write COCO's file of instances."""
    instances = {
        "info": {"description": "Shapes drawn by datamodules.shapes", "version": str(VERSION)},
        "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": kind.category_id, "name": kind.name, "supercategory": kind.supercategory} for kind in KINDS
        ],
    }
    path.write_text(_json(instances), encoding="utf-8", newline="\n")


def image_entry(scene: Scene, image_id: int) -> dict[str, Any]:
    """An entry of COCO's list of images."""
    height, width = scene.labels.shape
    return {"id": image_id, "file_name": f"{image_id:012d}.jpg", "height": height, "width": width, "license": 1}


def annotation(instance: Instance, annotation_id: int, image_id: int) -> Annotation:
    """An entry of COCO's list of annotations: box (xywh, px), area (px) and region of the visible part."""
    y, x = np.nonzero(instance.mask)
    left, top = int(x.min()), int(y.min())
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": instance.kind.category_id,
        "bbox": [float(left), float(top), float(x.max() + 1 - left), float(y.max() + 1 - top)],
        "area": float(len(x)),
        "iscrowd": int(instance.crowd),
        "segmentation": run_lengths(instance.mask) if instance.crowd else polygons(instance.mask),
    }


def run_lengths(mask: Mask) -> dict[str, list[int]]:
    """COCO's uncompressed run-length encoding: lengths of alternating runs down the columns, zeros first."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = [0, *([0] if flat[0] else []), *changes.tolist(), flat.size]
    return {"counts": np.diff(edges).tolist(), "size": list(mask.shape)}


def polygons(mask: Mask) -> list[list[float]]:
    """COCO's polygons of a mask: per part, x and y alternating, along the outer edges of its pixels.

    COCO's polygons cannot have holes: a part with a hole is cut in two through the hole's middle column.
    """
    # Outlines run through pixel corners, not centres: corner (x, y) touches the pixels (x-1..x, y-1..y). They cut
    # across inner corners, by an eighth of a pixel on this grid of half pixels.
    fine = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    corners = cv2.dilate(np.pad(fine, 1), np.ones((2, 2), np.uint8))[1:, 1:]
    outlines, hierarchy = cv2.findContours(corners, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for outline, (_, _, _, parent) in zip(outlines, hierarchy[0] if len(outlines) else [], strict=True):
        if parent >= 0:
            left, _, width, _ = cv2.boundingRect(outline)
            columns = np.arange(mask.shape[1]) < (left + width // 2) // 2
            return polygons(mask & columns) + polygons(mask & ~columns)
    return [(outline.reshape(-1) / 2).tolist() for outline in outlines]


def write_classes(folder: Path, presences: list[Presence]) -> None:
    """Write ADE20K's list of classes: share of the pixels, training and validation images, whether stuff, name."""
    train, val = presences
    pixels = train.pixels + val.pixels
    lines = ["Idx,Ratio,Train,Val,Stuff,Name"]
    for label, name in enumerate(NAMES, start=1):
        ratio, stuff = pixels[label] / pixels.sum(), int(label > len(KINDS))
        lines.append(f"{label},{ratio:.4f},{train.images[label]},{val.images[label]},{stuff},{name}")
    (folder / f"objectInfo{len(NAMES)}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def main(args: list[str] | None = None) -> None:
    """Run the command; `args` stand in for the command line's."""
    run_writer(write_shapes, "datamodules.shapes", args)


def run_writer(write: Callable[..., object], module: str, args: list[str] | None) -> None:
    """Runs a function that writes a data set as the command of a module, its arguments being the options.

    Args:
        write: The function; what it returns is printed.
        module: The module, as behind `python -m`.
        args: Arguments; default: those of the process.
    """
    try:
        done = auto_cli(
            write,
            args=args,
            as_positional=False,
            parser_class=OneLineParser,
            prog=f"python -m {module}",
            version=version_line(),
        )
    except (DataError, OSError) as error:
        end_with(error)
    sys.stdout.write(f"{done}\n")


if __name__ == "__main__":
    main()
