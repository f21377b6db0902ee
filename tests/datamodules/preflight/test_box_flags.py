"""What is doubtful about boxes: whole columns against one box after the other."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.coco_annotations import AnnotationFile
from datamodules.preflight.box_flags import Doubt, load_flags

SIZES = [(30, 50), (50, 30), (2, 9)]  # height, width


def drawn_file(seed: int, count: int) -> dict[str, Any]:
    """Boxes of all kinds: within the image, leaving it, outside, as corners, in 0..1, thin, without area, repeated."""
    draw = random.Random(seed)
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        image = draw.randrange(len(SIZES))
        height, width = SIZES[image]
        x, y = draw.uniform(-5, width), draw.uniform(-5, height)
        box = draw.choice(
            [
                [x, y, draw.uniform(0, 2 * width), draw.uniform(0, 2 * height)],
                [x, y, draw.uniform(x, width + 2), draw.uniform(y, height + 2)],
                [draw.random(), draw.random(), draw.random(), draw.random()],
                [round(x), round(y), draw.choice([0, 1, 3, -2]), draw.choice([0, 1, 3])],
            ]
        )
        if annotations and draw.random() < 0.3:
            image, box = annotations[-1]["image_id"], list(annotations[-1]["bbox"])
        annotations.append(
            {
                "id": 1000 - number,
                "image_id": image,
                "category_id": draw.choice([2, 4, 9]),
                "bbox": box,
                "area": draw.choice([1.0, 1023.9, 1024.0, 9215.9, 9216.0, 1e6]),
                "iscrowd": int(draw.random() < 0.2),
            }
        )
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": h, "width": w} for i, (h, w) in enumerate(SIZES)],
        "categories": [{"id": number, "name": str(number)} for number in (2, 4, 6, 9)],
        "annotations": annotations,
    }


def slow_doubts(box: list[float], size: tuple[int, int]) -> Doubt:
    """The definitions of `Doubt`, one box at a time."""
    (x, y, w, h), (height, width) = box, size
    across = min(max(x + w, 0), width) - min(max(x, 0), width)
    down = min(max(y + h, 0), height) - min(max(y, 0), height)
    found = Doubt(0)
    if across <= 0 or down <= 0:
        found |= Doubt.EMPTY
    else:
        found |= Doubt.THIN if min(across, down) < 1 else Doubt(0)
        found |= Doubt.LEAVES if across * down < w * h / 2 else Doubt(0)
    if x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
        found |= Doubt.STICKS_OUT
    if x >= -1 and y >= -1 and x < w <= width + 1 and y < h <= height + 1:
        found |= Doubt.CORNERS
    if all(0 <= number <= 1 for number in box) and max(size) > 1:
        found |= Doubt.UNIT
    return found


def test_flags_are_those_of_one_box_after_the_other(tmp_path: Path) -> None:
    content = drawn_file(seed=1, count=600)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    file, columns = AnnotationFile(path), load_flags(path)
    records = {record["id"]: record for record in content["annotations"]}
    seen, thinnest = set(), np.full((len(SIZES), 2), np.inf)
    objects = np.zeros((4, 3), int)
    flags = [Doubt(int(flag)) for flag in columns["flags"]]
    for number, flag in zip(file.annotation_ids.tolist(), flags, strict=True):
        record = records[number]
        expected = slow_doubts(record["bbox"], SIZES[record["image_id"]])
        same = (record["image_id"], record["category_id"], *record["bbox"])
        if not record["iscrowd"]:
            expected |= Doubt.REPEATED if same in seen else Doubt(0)
            seen.add(same)
            if Doubt.EMPTY not in expected:
                height, width = SIZES[record["image_id"]]
                x, y, w, h = record["bbox"]
                sides = [min(max(y + h, 0), height) - min(max(y, 0), height), 0.0]
                sides[1] = min(max(x + w, 0), width) - min(max(x, 0), width)
                thinnest[record["image_id"]] = np.minimum(thinnest[record["image_id"]], sides)
                size = 0 if record["area"] < 32**2 else 1 if record["area"] < 96**2 else 2
                objects[[2, 4, 6, 9].index(record["category_id"]), size] += 1
        assert flag == expected, record
    assert {doubt for doubt in Doubt for flag in flags if doubt in flag} == {*Doubt}, "all kinds occur"
    assert np.array_equal(columns["thinnest"], thinnest)
    assert columns["objects"].tolist() == objects.tolist() and objects[2].sum() == 0
