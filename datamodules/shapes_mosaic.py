"""Write a large scene with exact truth: scenes of the sample data set side by side, as a whole and cut into parts.

    python -m datamodules.shapes_mosaic --root DIR --rows 50 --columns 50 --part_rows 5 --part_columns 5

Whole and parts are two validation splits of the same pixels, each in the layouts of COCO and ADE20K:

    DIR/{whole,parts}/coco/val2017/000000000001.png                 8,000 x 6,000 pixels; parts of 800 x 600
    DIR/{whole,parts}/coco/annotations/instances_val2017.json       boxes and polygons
    DIR/{whole,parts}/ade20k/images/validation/000000000001.png
    DIR/{whole,parts}/ade20k/annotations/validation/000000000001.png
    DIR/{whole,parts}/ade20k/objectInfo9.csv

Parts are numbered row by row. No object lies in two scenes, so what is true of the whole is true of its parts. For what
is done with large images (docs/large-images.md), and for its tests.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jsonargparse.typing import NonNegativeInt, PositiveInt
from PIL import Image

from datamodules.errors import DataError
from datamodules.shapes import Presence, png, polygons, run_writer, write_classes, write_instances
from datamodules.shapes_scene import LONG_SIDE, NAMES, SHORT_SIDE, Instance, Pixels, Scene, draw_scene

HEIGHT, WIDTH = SHORT_SIDE[0], LONG_SIDE
"""Of a scene, in pixels: what is below is cut off."""
_SPLIT = 2
"""Draws other scenes than those of the sample data set's splits, 0 and 1."""


def draw_cells(seed: int) -> Iterator[Scene]:
    """Scenes of HEIGHT x WIDTH, one after the other: the landscapes among those of a seed."""
    index = 0
    while True:
        scene = draw_scene(seed, _SPLIT, index)
        index += 1
        if scene.labels.shape[1] == WIDTH and scene.labels.shape[0] >= HEIGHT:
            instances = [
                Instance(one.kind, one.mask[:HEIGHT], one.full_area, one.crowd)
                for one in scene.instances
                if one.mask[:HEIGHT].any()
            ]
            yield Scene(scene.image[:HEIGHT], scene.labels[:HEIGHT], instances)


def write_mosaic(
    root: Path,
    rows: PositiveInt = 50,
    columns: PositiveInt = 50,
    part_rows: PositiveInt = 5,
    part_columns: PositiveInt = 5,
    seed: NonNegativeInt = 0,
    image_format: Literal["png", "jpg"] = "png",
) -> str:
    """Write a large scene with exact truth, as a whole and cut into parts.

    Args:
        root: Folder to write to; it must be absent.
        rows: Scenes of 120 pixels below each other.
        columns: Scenes of 160 pixels beside each other.
        part_rows: Rows of scenes in a part; divides `rows`.
        part_columns: Columns of scenes in a part; divides `columns`.
        seed: The same seed draws the same scenes.
        image_format: Files of the images. Only those of png have the same pixels in whole and parts.

    Returns:
        What was done, in one line.

    Raises:
        DataError: `root` is there, or parts do not cover the scene.
    """
    if rows % part_rows or columns % part_columns:
        raise DataError(
            f"parts of {part_rows} x {part_columns} scenes do not cover {rows} x {columns}; give divisors of both"
        )
    if root.exists():
        raise DataError(f"{root} is there already; delete it or give another --root")
    drawn = list(islice(draw_cells(seed), rows * columns))
    cells = [drawn[first : first + columns] for first in range(0, rows * columns, columns)]
    parts = [
        [row[left : left + part_columns] for row in cells[top : top + part_rows]]
        for top in range(0, rows, part_rows)
        for left in range(0, columns, part_columns)
    ]
    _write(root / "whole", [cells], image_format)
    _write(root / "parts", parts, image_format)
    return f"{root}: wrote a scene of {columns * WIDTH} x {rows * HEIGHT} pixels, and its {len(parts)} parts"


def _write(root: Path, pictures: list[list[list[Scene]]], image_format: str) -> None:
    """Writes pictures, each of rows of scenes, as a validation split in both layouts."""
    photos, labels = root / "coco" / "val2017", root / "ade20k" / "annotations" / "validation"
    folders = photos, labels, root / "ade20k" / "images" / "validation", root / "coco" / "annotations"
    for folder in folders:
        folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    presence = Presence(np.zeros(len(NAMES) + 1, np.int64), np.zeros(len(NAMES) + 1, np.int64))
    for number, cells in enumerate(pictures, 1):
        image, truth = (
            np.concatenate([np.concatenate([getattr(cell, name) for cell in row], axis=1) for row in cells])
            for name in ("image", "labels")
        )
        name = f"{number:012d}.{image_format}"
        _save(image, photos / name)
        (folders[2] / name).hardlink_to(photos / name)
        (labels / f"{number:012d}.png").write_bytes(png(truth))
        images.append({"id": number, "file_name": name, "height": truth.shape[0], "width": truth.shape[1]})
        for top, row in enumerate(cells):
            for left, cell in enumerate(row):
                for instance in cell.instances:
                    corner = left * WIDTH, top * HEIGHT
                    annotations.append(_annotation(instance, corner, len(annotations) + 1, number))
        pixels = np.bincount(truth.ravel(), minlength=len(NAMES) + 1)
        presence.pixels[:] += pixels
        presence.images[:] += pixels > 0
    write_instances(folders[3] / "instances_val2017.json", images, annotations)
    none = Presence(np.zeros_like(presence.pixels), np.zeros_like(presence.images))
    write_classes(root / "ade20k", [none, presence])


def _save(image: Pixels, path: Path) -> None:
    options: dict[str, Any] = {"quality": 95} if path.suffix == ".jpg" else {"compress_level": 1}
    Image.fromarray(image).save(path, **options)


def _annotation(instance: Instance, corner: tuple[int, int], annotation_id: int, image_id: int) -> dict[str, Any]:
    """An entry of COCO's list of annotations, of a scene that lies at x and y of its picture."""
    y, x = np.nonzero(instance.mask)
    left, top = int(x.min()), int(y.min())
    outlines = [np.add(np.reshape(outline, (-1, 2)), corner).ravel().tolist() for outline in polygons(instance.mask)]
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": instance.kind.category_id,
        "bbox": [left + corner[0], top + corner[1], int(x.max()) + 1 - left, int(y.max()) + 1 - top],
        "area": len(x),
        "iscrowd": int(instance.crowd),
        "segmentation": outlines,
    }


def main(args: list[str] | None = None) -> None:
    """Run the command; `args` stand in for the command line's."""
    run_writer(write_mosaic, "datamodules.shapes_mosaic", args)


if __name__ == "__main__":
    main()
