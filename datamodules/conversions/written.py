"""A split that was read is written as a COCO file, and read again by what training reads it with."""

import json
import os
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from datamodules.coco_annotations import AnnotationFile
from datamodules.conversions.split import Converted, Object
from datamodules.errors import DataError
from datamodules.instances import encode_mask
from datamodules.orientation import Size


def write_coco(converted: Converted, target: Path) -> list[str]:
    """Writes a COCO file and checks it; where anything is wrong, there is none.

    Args:
        converted: What was read.
        target: The json file; its folder is made.

    Returns:
        Lines that say what was written and what was left out.

    Raises:
        DataError: There is nothing to write, or training could not read it.
    """
    if not converted.pictures or not converted.class_names:
        told = "; ".join(map(str, converted.findings))
        raise DataError(f"nothing to write to {target}: no images with label files, or no classes. {told}")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        unfinished.write_text(json.dumps(_content(converted)), encoding="utf-8")
        _check(AnnotationFile(unfinished), converted)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return [*map(str, converted.findings), *_counts(converted), f"written to {target}"]


def _content(converted: Converted) -> dict[str, Any]:
    numbers = {name: number for number, name in enumerate(converted.class_names, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, picture in enumerate(converted.pictures, start=1):
        height, width = picture.size
        images.append({"id": image_id, "file_name": picture.path.as_posix(), "height": height, "width": width})
        for one in picture.objects:
            record = {"id": len(annotations) + 1, "image_id": image_id, "category_id": numbers[one.name]}
            shape = {} if one.segmentation is None else {"segmentation": one.segmentation}
            known = {"bbox": list(one.box), "area": _area(one, picture.size), "iscrowd": int(one.is_crowd)}
            annotations.append({**record, **known, **shape})
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _area(one: Object, size: Size) -> float:
    """That of the mask, as COCO has it; of the box where there is none."""
    if one.segmentation is None:
        return one.box[2] * one.box[3]
    return float(coco_mask.area(encode_mask(one.segmentation, size)))


def _check(file: AnnotationFile, converted: Converted) -> None:
    """Compares what training reads with what was read."""
    boxes = [list(one.box) for picture in converted.pictures for one in picture.objects]
    names = [one.name for picture in converted.pictures for one in picture.objects]
    if (
        file.file_names.tolist() != [picture.path.as_posix() for picture in converted.pictures]
        or file.boxes.tolist() != boxes
        or [file.class_names[label] for label in file.labels] != names
    ):
        raise RuntimeError(f"{file.path} reads back differently")


def _counts(converted: Converted) -> list[str]:
    by_class = converted.objects_by_class()
    crowds = sum(one.is_crowd for picture in converted.pictures for one in picture.objects)
    empty = sum(not picture.objects for picture in converted.pictures)
    words = f"{len(converted.pictures)} images, {sum(by_class.values())} objects, {empty} images without objects"
    words += f", {crowds} crowd regions" * bool(crowds)
    return [words, "objects: " + ", ".join(f"{name} {count}" for name, count in by_class.items())]
