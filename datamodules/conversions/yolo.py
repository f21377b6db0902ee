"""YOLO's labels: a text file for each image with a line `class x y width height` for each object.

All but the class are shares of the image's width and height; x and y are the centre. hotcoco turns them into pixels. It
does not see to the following, which is done here:

- it reads one folder without sub-folders, wants `data.yaml` in it and does not read the one that most tools write (a
  list below `names:`), leaves out images without a label file, and names images without their ending;
- polygons (`class x y x y ...`, as for YOLO-seg, and the four corners of rotated boxes) it refuses. They become COCO's
  polygons, and their upright box;
- numbers that are not shares it takes as they are. They are refused;
- it takes sizes of images as stored. Trainers of YOLO and viewers turn pictures as EXIF says, so that size is taken.

`area` is width by height of the box, also of polygons (`AnnotationFile` counts objects by it), and `iscrowd` is 0: YOLO
knows neither.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hotcoco import COCO

from datamodules.class_lists import read_lines, read_names
from datamodules.conversions.split import Converted, Object, Picture, find_images, shown_size
from datamodules.conversions.staging import NUMBER, read_annotations, staged
from datamodules.errors import DataError
from datamodules.orientation import Size

_SLACK = 0.01
"""By how much a share may leave 0..1: labels are rounded."""

Row = tuple[int, list[float]]
"""Number of a class, and shares."""


def read_yolo(images: Path, labels: Path, classes: Path, names: Path | None) -> Converted:
    """Reads a split.

    Args:
        images: Folder of the images.
        labels: Folder of the label files: that of `images/ulm/7.jpg` is `labels/ulm/7.txt`.
        classes: `data.yaml`, or a text file with a name on each line.
        names: The images of the split; see `find_images`.

    Raises:
        DataError: A file is missing or not as expected.
    """
    class_names = _class_names(classes)
    paths = find_images(images, names)
    sources = [labels / path.with_suffix(".txt") for path in paths]
    _check_one_each(images, paths, sources)
    shown = [shown_size(images / path) for path in paths]
    rows = [_rows(source, len(class_names)) if source.is_file() else [] for source in sources]
    objects = _objects(sources, [size for size, _ in shown], rows, class_names)
    pictures = [Picture(path, size, found) for path, (size, _), found in zip(paths, shown, objects, strict=True)]
    converted = Converted(class_names, pictures)
    missing = [path for path, source in zip(paths, sources, strict=True) if not source.is_file()]
    converted.note("no_label_file", labels, missing, len(paths), "images have no label file: they have no objects")
    files = [path for path in sorted(labels.rglob("*.txt")) if path not in set(sources) and path != classes]
    lists = {"classes.txt", "train.txt", "val.txt", "test.txt"}
    unused = [path.relative_to(labels) for path in files if path.name not in lists]
    if names is None:
        text = f"label files have no image in {images}: they are left out"
        converted.note("no_image", labels, unused, len(unused) + len(paths) - len(missing), text)
    turned = [path for path, (_, is_turned) in zip(paths, shown, strict=True) if is_turned]
    text = "images are turned by EXIF: their boxes are taken to lie on the turned picture; add --data.orientation apply"
    converted.note("turned", images, turned, len(paths), text)
    return converted


def _class_names(path: Path) -> list[str]:
    if path.suffix.lower() not in (".yaml", ".yml"):
        return read_names(path.parent, path.name)
    try:
        names = yaml.safe_load("\n".join(read_lines(path)))["names"]
        listed = [names[number] for number in range(len(names))]
    except (yaml.YAMLError, TypeError, KeyError):
        raise DataError(f"{path} has no `names`: a list, or a table from 0, 1, ... to names; correct it") from None
    if not listed or len({str(name) for name in listed}) < len(listed):
        raise DataError(f"{path} has names {listed}, expected one or more, all different")
    return [str(name) for name in listed]


def _check_one_each(images: Path, paths: Sequence[Path], sources: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for path, source in zip(paths, sources, strict=True):
        if source in seen:
            raise DataError(f"{images / seen[source]} and {path.name} have one label file, {source}; rename one")
        seen[source] = path


def _rows(source: Path, num_classes: int) -> list[Row]:
    rows = []
    for number, line in enumerate(read_lines(source), start=1):
        where = f"{source}, object {number} ({line[:60]!r})"
        try:
            first, *shares = map(float, line.split())
        except ValueError:
            raise DataError(f"{where}: expected numbers, `class x y width height`") from None
        if not first.is_integer() or not 0 <= first < num_classes:
            raise DataError(f"{where}: expected a class in 0..{num_classes - 1}, as many as there are names")
        if len(shares) != 4 and (len(shares) < 6 or len(shares) % 2):
            raise DataError(
                f"{where} has {1 + len(shares)} numbers, expected `class x y width height`, or a polygon `class x y "
                "x y x y ...`; a sixth number is the score of a prediction, which is no label"
            )
        if not all(-_SLACK <= share <= 1 + _SLACK for share in shares) or (len(shares) == 4 and min(shares[2:]) < 0):
            raise DataError(f"{where}: expected shares of the image's width and height, 0..1; these are pixels?")
        rows.append((int(first), shares))
    return rows


def _objects(
    sources: Sequence[Path], sizes: Sequence[Size], rows: Sequence[list[Row]], class_names: Sequence[str]
) -> list[list[Object]]:
    with staged(sources) as folder:
        (folder / "images").mkdir()
        (folder / "data.yaml").write_text(f"names: [{', '.join(map(str, range(len(class_names))))}]\n")
        for place, (size, of_image) in enumerate(zip(sizes, rows, strict=True)):
            lines = (" ".join(map(repr, (label, *_upright(shares)))) for label, shares in of_image)
            (folder / f"{NUMBER.format(place)}.txt").write_text("\n".join(lines))
            # hotcoco asks Pillow for the size, which reads it from the first line of this: a picture without pixels.
            (folder / "images" / f"{NUMBER.format(place)}.png").write_bytes(b"P5 %d %d 255\n" % size[::-1])
        found = read_annotations(lambda: COCO.from_yolo(str(folder), str(folder / "images")), len(sources))
    return [
        [
            Object(class_names[label], record["bbox"], segmentation=_polygons(shares, size))
            for record, (label, shares) in zip(records, of_image, strict=True)
        ]
        for records, of_image, size in zip(found, rows, sizes, strict=True)
    ]


def _upright(shares: Sequence[float]) -> Sequence[float]:
    """Centre and extent of a row: those that it says, or those of its polygon."""
    if len(shares) == 4:
        return shares
    left, right, top, bottom = min(shares[::2]), max(shares[::2]), min(shares[1::2]), max(shares[1::2])
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _polygons(shares: Sequence[float], size: Size) -> Any:
    if len(shares) == 4:
        return None
    height, width = size
    return [[share * side for share, side in zip(shares, math.ceil(len(shares) / 2) * (width, height), strict=True)]]
