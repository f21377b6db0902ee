"""LabelMe's labels: a json file for each image with a list of shapes, read by supervision (`pip install '.[labelme]'`).

Rectangles become boxes; polygons become masks and the boxes around them; shapes of one label and `group_id` become one
object. What supervision gets wrong or does not take over:

- circles, lines, points and LabelMe's own masks are left out: they are counted here;
- corners of polygons are rounded to whole pixels before they are filled, and a mask has the pixels on its edge, too.
  The boxes are those of the corners as they stand, in 32 bits;
- `flags`, `description` and `imageData` (the picture within the json) are not looked at.

supervision holds the masks of all images at once where it is handed a folder, and finds no sub-folders: here it reads
one file at a time.
"""

import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from datamodules.class_lists import read_names
from datamodules.conversions.split import Converted, Object, Picture, find_images, shown_size
from datamodules.errors import DataError
from datamodules.orientation import Size


def read_labelme(images: Path, labels: Path, classes: Path | None, names: Path | None) -> Converted:
    """Reads a split.

    Args:
        images: Folder of the images.
        labels: Folder of the json files, often the same: that of `images/ulm/7.jpg` is `labels/ulm/7.json`.
        classes: Text file with a name on each line. Default: all that occur below `labels`, sorted.
        names: The images of the split; see `find_images`.

    Raises:
        DataError: supervision is not installed, or a file is missing or not as expected.
    """
    shapes = {path: _shapes(path) for path in sorted(labels.rglob("*.json"))}
    if not shapes:
        raise DataError(f"no json files in {labels}; give the folder of LabelMe's files")
    occurring = sorted({str(shape.get("label")) for found in shapes.values() for shape in found if _is_read(shape)})
    class_names = occurring if classes is None else read_names(classes.parent, classes.name)
    paths = find_images(images, names)
    pictures = []
    for path in paths:
        source = labels / path.with_suffix(".json")
        if source in shapes:
            size, _ = shown_size(images / path)
            pictures.append(Picture(path, size, _objects(source, shapes[source], class_names, size)))
    converted = Converted(class_names, pictures)
    read = {labels / picture.path.with_suffix(".json") for picture in pictures}
    missing = [path for path in paths if labels / path.with_suffix(".json") not in read]
    text = "images have no json file: they are left out, because nothing says that they have no objects"
    converted.note("no_label_file", labels, missing, len(paths), text)
    kinds = Counter(str(shape.get("shape_type")) for path in read for shape in shapes[path] if not _is_read(shape))
    others = [f"{count} {kind}" for kind, count in kinds.most_common()]
    text = "kinds of shape are neither rectangles nor polygons: they are left out"
    converted.note("other_shapes", labels, others, len(others), text)
    return converted


def _shapes(path: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(path.read_text(encoding="utf-8-sig"))["shapes"])
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is no file of LabelMe's ({type(error).__name__}: {error}); take it out") from None


def _is_read(shape: dict[str, Any]) -> bool:
    return shape.get("shape_type") in ("rectangle", "polygon")


def _objects(source: Path, shapes: list[dict[str, Any]], class_names: list[str], size: Size) -> list[Object]:
    try:
        from supervision.dataset.formats.labelme import labelme_shapes_to_detections
    except ImportError:
        raise DataError("LabelMe is read by supervision, which is not installed: pip install '.[labelme]'") from None

    numbers = {name: number for number, name in enumerate(class_names)}
    with_masks = any(shape.get("shape_type") == "polygon" for shape in shapes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of shapes that are left out, which are counted here
            found = labelme_shapes_to_detections(shapes, numbers, size[::-1], with_masks)
    except KeyError as error:
        raise DataError(f"{source} has a label {error}, expected one of {', '.join(class_names)}") from None
    except ValueError as error:
        raise DataError(f"{source}: {error}; correct the file") from None
    if not len(found):
        return []
    corners = np.asarray(found.xyxy, np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    masks = [None] * len(boxes) if found.mask is None else [_encoded(mask) for mask in found.mask]
    return [
        Object(class_names[label], box, segmentation=mask)
        for label, box, mask in zip(found.class_id, boxes, masks, strict=True)
    ]


def _encoded(mask: Any) -> dict[str, Any]:
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": code["size"], "counts": code["counts"].decode()}
