"""Masks follow the window of their image: as rasterised at full size and then warped, without doing so."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules import DetectionPipeline, FixedSize, MultiScaleCrop, ShorterSide, SSDCrop
from datamodules.coco_annotations import AnnotationFile
from datamodules.coco_dataset import COCODataset
from datamodules.instances import draw_mask, encode_mask, is_usable, stack_masks
from datamodules.resampling import Window, resample_mask, whole
from datamodules.sampling import SampleKey

Mask = NDArray[np.uint8]

PIPELINES = {
    "resized": FixedSize(60, 80),
    "stretched": FixedSize(60, 80, keep_ratio=False),
    "jittered": FixedSize(64, 64, scale=(0.1, 2.0)),
    "jittered-stretched": FixedSize(48, 96, scale=(0.1, 2.0), keep_ratio=False),
    "shorter": ShorterSide((30, 60, 90), 160),
    "multi-scale": MultiScaleCrop((48, 64, 90), 150, (40, 60), (24, 60)),
    "ssdlite": SSDCrop(64, 48),
    "ssd": SSDCrop(64, 64, zoom_out=0.7),
}
IMAGES = 25


def star(draw: np.random.Generator, height: int, width: int) -> list[float]:
    """A polygon of 3 to 24 corners that may stick out of the image; sizes from a pixel to the whole image."""
    corners = int(draw.integers(3, 25))
    angles = np.sort(draw.uniform(0, 2 * np.pi, corners))
    radii = draw.uniform(0.3, 1, corners) * np.exp(draw.uniform(np.log(1.0), np.log(0.7 * min(height, width)), 1))
    centre = draw.uniform(-0.05, 1.05, 2) * (width, height)
    points = centre + np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1) * draw.uniform(0.5, 1, 2)
    return np.round(points, 2).ravel().tolist()


def counts(mask: Mask) -> list[int]:
    """Runs down the columns, zeros first."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    return np.diff([0, *([0] if flat[0] else []), *edges, flat.size]).tolist()


def reference_mask(segmentation: Any, height: int, width: int) -> Mask:
    """As pycocotools' own `annToMask`."""
    code = segmentation
    if isinstance(code, list):
        code = coco_mask.merge(coco_mask.frPyObjects(code, height, width))
    elif isinstance(code["counts"], list):
        code = coco_mask.frPyObjects(code, height, width)
    return np.ascontiguousarray(coco_mask.decode(code))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AnnotationFile]:
    """Images with objects of each kind of segmentation, and a crowd; `area` numbers the annotations."""
    folder, draw = tmp_path_factory.mktemp("instances"), np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(IMAGES):
        height, width = (int(side) for side in draw.integers(30, 130, 2))
        Image.new("RGB", (width, height)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        for kind in range(6):
            polygons = [star(draw, height, width) for _ in range(1 + kind % 2)]
            mask = reference_mask(polygons, height, width)
            if not mask.any():
                continue
            points = np.concatenate(polygons).reshape(-1, 2)
            corners = np.concatenate([points.min(axis=0), points.max(axis=0)])
            compressed = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
            size = [height, width]
            codes = [{"size": size, "counts": counts(mask)}, {"size": size, "counts": compressed}]
            segmentation = (polygons, polygons, polygons, codes[0], codes[1], codes[0])[kind]
            if isinstance(segmentation, dict):
                x, y, w, h = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask)))
                corners = np.array([x, y, x + w, y + h])
            box = [*corners[:2], *(corners[2:] - corners[:2])]
            identity = {"id": len(annotations) + 1, "image_id": number, "category_id": 1 + len(annotations) % 5}
            annotations.append(
                {**identity, "bbox": box, "area": len(annotations), "iscrowd": int(kind == 5), "segmentation": segmentation}
            )
    categories = [{"id": number, "name": str(number)} for number in range(1, 6)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "all.json").write_text(json.dumps(content))
    file = AnnotationFile(folder / "all.json")
    file.check_masks()
    return folder, file


def warped(mask: Mask, window: Window) -> Mask:
    """The slow way: the whole mask, each output pixel looked up."""
    height, width = window.size
    result = np.zeros(window.size, np.uint8)
    for row in range(height):
        for column in range(width):
            y = int(np.floor(window.top + (row + 0.5) * window.height / height))
            x = int(np.floor(window.left + (column + 0.5) * window.width / width))
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]:
                result[row, column] = mask[y, x]
    return result[:, ::-1] if window.mirrored else result


def band(mask: Mask, window: Window) -> NDArray[np.bool_]:
    """Pixels of the output within a pixel of the output, and one of the image, of the edge of a warped mask."""
    reach = [1 + max(1, int(np.ceil(side / extent))) for side, extent in zip(window.size, window[2:4], strict=True)]
    kernel = np.ones((2 * reach[0] + 1, 2 * reach[1] + 1), np.uint8)
    return cv2.dilate(mask, kernel) != cv2.erode(mask, kernel)
