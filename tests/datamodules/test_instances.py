"""Masks follow the window of their image: as rasterised at full size and then warped, without doing so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules import DetectionPipeline, FixedSize, MultiScaleCrop, ShorterSide, SSDCrop
from datamodules.coco_annotations import AnnotationFile
from datamodules.coco_dataset import COCODataset
from datamodules.instances import draw_masks, encode_mask, is_usable, stack_masks
from datamodules.resampling import Window, crop_of_resized, resample_mask, whole
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
                {
                    **identity,
                    "bbox": box,
                    "area": len(annotations),
                    "iscrowd": int(kind == 5),
                    "segmentation": segmentation,
                }
            )
    categories = [{"id": number, "name": str(number)} for number in range(1, 6)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "all.json").write_text(json.dumps(content))
    file = AnnotationFile(folder / "all.json")
    file.check_masks()
    return folder, file


def moved(points: NDArray[np.float64], window: Window) -> NDArray[np.float64]:
    """Points (V, 2) of the image in the output, one number at a time."""
    result = []
    for x, y in points:
        x, y = (x - window.left) * (window.size[1] / window.width), (y - window.top) * (window.size[0] / window.height)
        result.append([window.size[1] - x if window.mirrored else x, y])
    return np.array(result)


def distances(pixels: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """From points (M, 2) to the outline of a polygon (V, 2) -> (M,)."""
    start, edge = corners, np.roll(corners, -1, axis=0) - corners
    along = ((pixels[:, None] - start) * edge).sum(axis=2) / np.maximum((edge**2).sum(axis=1), 1e-12)
    nearest = start + along.clip(0, 1)[..., None] * edge
    return np.linalg.norm(pixels[:, None] - nearest, axis=2).min(axis=1)


def check_mask(mask: Mask, segmentation: Any, size: tuple[int, int], window: Window) -> None:
    """Compares a mask in the frame with the one that is rasterised at the image's size and warped.

    Run-length codes are equal. Polygons differ only where the outline passes between the centre of the output pixel and
    that of the image's pixel that is nearest to it, half a pixel of the image away, or where pycocotools, to which a
    centre within 0.3 pixels of the outline may be on either side of it, rounds the other way in one of the two.
    """
    reference = resample_mask(reference_mask(segmentation, *size), window, fill=0)
    assert mask.shape == reference.shape
    if isinstance(segmentation, dict):
        assert (mask == reference).all()
        return
    reach = np.array([window.size[1] / window.width, window.size[0] / window.height])
    reach = np.maximum(0.3, 0.8 * reach)  # pixels of the output, across and down
    centres = np.argwhere(mask != reference)[:, ::-1] + 0.5
    outlines = [moved(np.reshape(polygon, (-1, 2)), window) for polygon in segmentation]
    if len(centres):
        nearest = np.min([distances(centres / reach, outline / reach) for outline in outlines], axis=0)
        assert nearest.max() <= 2**0.5, (nearest.max(), window)


def check_samples(scenes: tuple[Path, AnnotationFile], pipeline: DetectionPipeline, epochs: int, drops: bool) -> int:
    """Looks at every object of every sample; returns how many there were."""
    folder, file = scenes
    transforms = pipeline.training()
    dataset = COCODataset(folder, file, np.arange(5), transforms, seed=0, training=True, masks=True)
    objects = 0
    for epoch in range(epochs):
        for index in range(len(dataset)):
            sample = dataset[SampleKey(epoch, index, False)]
            target, window, where = sample["target"], transforms[0].window, file.of_image(index)
            height, width = window.size
            size = tuple(file.sizes[index].tolist())
            boxes, masks = target["boxes"].numpy(), target["masks"].numpy()
            assert sample["image"].shape == (3, height, width)
            assert masks.dtype == np.uint8 and masks.shape == (len(boxes), height, width)
            assert len(boxes) == len(target["labels"]) == len(target["area"]) == len(target["iscrowd"])
            assert not target["iscrowd"].any()
            found = target["area"].numpy().astype(int)  # rows of the file
            assert len(set(found.tolist())) == len(found) and set(found) <= set(range(where.start, where.stop))
            assert target["labels"].tolist() == file.labels[found].tolist()
            assert (boxes >= 0).all() and (boxes <= [width, height, width, height]).all()
            assert len(boxes) == 0 or (boxes[:, 2:] - boxes[:, :2]).min() >= 1 - 1e-4
            for row, box, mask in zip(found, boxes, masks, strict=True):
                assert mask.any() and mask.max() == 1
                check_mask(mask, file.segmentation(row), size, window)
                rows, columns = np.nonzero(mask)
                extent = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                assert (extent[:2] >= box[:2] - 1).all() and (extent[2:] <= box[2:] + 1).all()
            crowds = []
            for row in range(where.start, where.stop):
                x, y, w, h = file.boxes[row]
                corners = np.array([[x, y], [x + w, y + h]]).clip(0, size[::-1])
                left, top, right, bottom = np.sort(moved(corners, window), axis=0).clip(0, [width, height]).ravel()
                if file.iscrowd[row]:
                    crowds += [[left, top, right, bottom]] if right > left and bottom > top else []
                elif row not in found and not drops and min(right - left, bottom - top) >= 1 + 1e-3:
                    check_mask(np.zeros(window.size, np.uint8), file.segmentation(row), size, window)
            assert target["crowd"].dtype == torch.float32
            assert target["crowd"].numpy() == pytest.approx(np.reshape(crowds, (-1, 4)), abs=1e-3)
            objects += len(boxes)
    return objects


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_masks_are_those_rasterised_and_warped(scenes: tuple[Path, AnnotationFile], pipeline: str) -> None:
    assert check_samples(scenes, PIPELINES[pipeline], epochs=1, drops=pipeline.startswith("ssd")) > IMAGES


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_1000_masks_are_those_rasterised_and_warped(scenes: tuple[Path, AnnotationFile], pipeline: str) -> None:
    epochs = 1000 // IMAGES
    assert check_samples(scenes, PIPELINES[pipeline], epochs, pipeline.startswith("ssd")) > epochs * IMAGES


def windows() -> list[tuple[tuple[int, int], Window]]:
    """Windows of an image: whole, parts, more than all, mirrored."""
    size = (97, 131)
    found = [whole(size, size), whole(size, (150, 77)), crop_of_resized(size, (240, 300), 51, 90, (130, 140))]
    found += [Window(13.7, 20.2, 41.3, 50.9, (60, 88)), Window(-20.5, -30, 160, 190, (90, 80))]
    return [(size, window._replace(mirrored=mirrored)) for window in found for mirrored in (False, True)]


@pytest.mark.parametrize(("size", "window"), windows())
def test_polygons_are_pycocotools_picture_of_the_moved_corners(size: tuple[int, int], window: Window) -> None:
    draw, compared = np.random.default_rng(0), 0
    image = resample_mask(np.ones(size, np.uint8), window, fill=0)  # masks end where it ends
    for number in range(60):
        polygons = [star(draw, *size) for _ in range(1 + number % 3)]
        corners = [moved(np.reshape(polygon, (-1, 2)), window).ravel().tolist() for polygon in polygons]
        (mask,) = stack_masks(draw_masks([polygons], size, window), window.size)
        assert (mask == reference_mask(corners, *window.size) & image).all()
        compared += int(mask.any())
    assert compared > 20


def test_pieces_that_cover_nothing_are_left_out() -> None:
    square = [10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]
    plain, window = encode_mask([square], (40, 50)), whole((40, 50), (80, 100))
    for more in ([1.0, 2.0, 30.0, 39.0], [], [1.0, 2.0, 30.0, 39.0, 2.0, 7.0, 3.0]):
        assert encode_mask([more, square], (40, 50)) == plain
        (patch,) = draw_masks([[more, square]], (40, 50), window)
        assert patch[:2] == (20, 20) and patch.pixels.sum() == 40 * 40


def test_corners_far_outside_cost_no_memory() -> None:
    far = [-1e12, -1e12, 1e12, -1e12, 1e12, 1e12, -1e12, 1e12]
    (mask,) = stack_masks(draw_masks([[far]], (40, 50), whole((40, 50), (80, 100))), (80, 100))
    assert mask.all()
    assert coco_mask.area(encode_mask([far], (40, 50))) == 40 * 50


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 4), (7, 5), (300, 200)])
def test_what_pycocotools_encodes_is_usable(size: tuple[int, int]) -> None:
    draw = np.random.default_rng(0)
    masks = [np.zeros(size, np.uint8), np.ones(size, np.uint8)]
    masks += [(draw.random(size) < share).astype(np.uint8) for share in (0.01, 0.5, 0.99)]
    for mask in masks:
        code = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
        for of_one in (code, counts(mask)):
            segmentation = {"size": list(size), "counts": of_one}
            text = json.dumps(segmentation).encode()
            assert is_usable(text, size) and not is_usable(text, (size[0] + 1, size[1]))
            larger = {"size": [size[0] + 1, size[1]], "counts": of_one}
            assert not is_usable(json.dumps(larger).encode(), (size[0] + 1, size[1])), "too few pixels"
            assert (coco_mask.decode(encode_mask(segmentation, size)) == mask).all()


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"null", b"3", b'""', b"[]", b"[[]]", b"[1, 2, 3, 4, 5, 6]", b"[[1, 2, 3, 4]]", b"[[1, 2, 3, 4, 5]]"),
        *(
            b"[[1, 2, 3, 4, 5, null]]",
            b"[[1, 2, 3, 4, 5, NaN]]",
            b"[[1, 2, 3, 4, 5, 1e999]]",
            b'[["1", 2, 3, 4, 5, 6]]',
        ),
        *(
            b'{"size": [4, 5]}',
            b'{"counts": [20]}',
            b'{"size": [4], "counts": [20]}',
            b'{"size": [5, 4], "counts": [20]}',
        ),
        *(
            b'{"size": [4, 5], "counts": [19]}',
            b'{"size": [4, 5], "counts": [30, -10]}',
            b'{"size": [4, 5], "counts": []}',
        ),
        *(
            b'{"size": [4, 5], "counts": ""}',
            b'{"size": [4, 5], "counts": "P"}',
            '{"size": [4, 5], "counts": "é"}'.encode(),
        ),
        b'{"size": [4, 5], "counts": "' + 40 * b"o" + b'0"}',
    ],
)
def test_what_is_no_mask(text: bytes) -> None:
    assert not is_usable(text, (4, 5))
