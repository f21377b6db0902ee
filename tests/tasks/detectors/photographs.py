"""Small photographs with boxes and masks as a batch."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO as Annotations

from datamodules.sampling import SampleKey


def photograph_batch(folder: Path, sizes: dict[int, tuple[int, int]], frame: tuple[int, int]) -> dict:
    """A batch as `datamodules.COCO` makes it, with masks, from images of coco-free's training split.

    Args:
        folder: The data set.
        sizes: Height and width that each image is resized to, by its id.
        frame: Height and width of the padded batch.
    """
    file = folder / "annotations" / "instances_train2017.json"
    annotations = Annotations()
    annotations.dataset = json.loads(file.read_text())
    annotations.createIndex()
    labels = {category: label for label, category in enumerate(sorted(annotations.cats))}
    images = torch.zeros(len(sizes), 3, *frame, dtype=torch.uint8)
    targets = []
    for image, (number, (height, width)) in zip(images, sizes.items(), strict=True):
        facts = annotations.imgs[number]
        with Image.open(folder / "train2017" / facts["file_name"]) as photograph:
            pixels = np.asarray(photograph.convert("RGB").resize((width, height)))
        image[:, :height, :width] = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        scale = np.array([width / facts["width"], height / facts["height"]] * 2)
        objects = annotations.imgToAnns[number]
        things = [entry for entry in objects if not entry["iscrowd"]]
        boxes = np.array([entry["bbox"] for entry in objects], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        scaled = torch.tensor(boxes * scale, dtype=torch.float32)
        is_crowd = torch.tensor([bool(entry["iscrowd"]) for entry in objects])
        masks = [
            np.asarray(Image.fromarray(annotations.annToMask(entry)).resize((width, height), Image.Resampling.NEAREST))
            for entry in things
        ]
        targets.append(
            {
                "image_id": number,
                "original_size": torch.tensor([facts["height"], facts["width"]]),
                "boxes": scaled[~is_crowd],
                "labels": torch.tensor([labels[entry["category_id"]] for entry in things]),
                "masks": torch.from_numpy(np.stack(masks)),
                "crowd": scaled[is_crowd],
            }
        )
    keys = [SampleKey(0, number, False) for number in sizes]
    return {"image": images, "size": torch.tensor([*sizes.values()]), "targets": targets, "keys": keys}
