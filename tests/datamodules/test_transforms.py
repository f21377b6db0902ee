"""Boxes and masks move with the pixels, whatever the image and the draw."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from datamodules.coco_annotations import AnnotationFile
from datamodules.coco_dataset import COCODataset
from datamodules.geometry import RatioCrop, fit_size, shorter_side_size
from datamodules.photometric import PhotoMetricDistortion
from datamodules.pipelines import DetectionPipeline, FixedSize, RandomRatioCrop, ShorterSide, SSDCrop
from datamodules.sampling import SampleKey, seed_transforms
from datamodules.zoom_and_crop import ZoomAndCrop

PIPELINES = {
    "resized": FixedSize(60, 80),
    "stretched": FixedSize(60, 80, keep_ratio=False),
    "jittered": FixedSize(64, 64, scale=(0.1, 2.0)),
    "jittered-stretched": FixedSize(48, 96, scale=(0.1, 2.0), keep_ratio=False),
    "shorter": ShorterSide((30, 60, 90), 160),
    "ssdlite": SSDCrop(64, 48),
    "ssd": SSDCrop(64, 64, zoom_out=0.7),
}
EPOCHS, IMAGES = 2, 60  # 7 pipelines x 2 epochs x 60 images = 840 draws
PAINTED = 1  # category of the box that is white in the picture


def random_size(draw: np.random.Generator, number: int) -> tuple[int, int]:
    kind = number % 4
    if kind == 0:
        return int(draw.integers(1, 9)), int(draw.integers(1, 9))
    if kind == 1:
        sides = [int(draw.integers(1, 5)), int(draw.integers(150, 400))]
        return (sides[0], sides[1]) if draw.random() < 0.5 else (sides[1], sides[0])
    return int(draw.integers(20, 200)), int(draw.integers(20, 200))


def noise_boxes(draw: np.random.Generator, height: int, width: int) -> list[list[float]]:
    """Boxes partly or wholly outside, thinner than a pixel, thinner than float32 resolves, and without area."""
    x, y = draw.uniform(-0.5, 1.5, 2) * (width, height)
    w, h = draw.uniform(0, 1.5, 2) * (width, height)
    inside = 0.9 * width
    return [
        [x, y, w, h],
        [-0.3, -0.4, width + 0.7, height + 0.8],
        [width + 5.0, 0, 3, 3],
        [inside, 0, draw.uniform(0, 1), height],
        [inside, 0, 1e-7, height],
        [0, 0, width, 1e-12],
        [0, 0, 0, height],
        [width / 2, 0, -width / 4, height],
    ]


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AnnotationFile]:
    """Black images with one white box, annotated among noise; `area` numbers the annotations, category follows it."""
    folder, draw = tmp_path_factory.mktemp("painted"), np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []

    def annotate(box: list[float], category: int, crowd: bool = False) -> None:
        number = len(annotations) + 1
        category = category or 2 + number % 7
        record = {"id": number, "image_id": images[-1]["id"], "category_id": category, "area": number}
        annotations.append({**record, "bbox": box, "iscrowd": int(crowd)})

    for number in range(IMAGES):
        height, width = random_size(draw, number)
        x, y = int(draw.integers(0, width)), int(draw.integers(0, height))
        w, h = int(draw.integers(1, width - x + 1)), int(draw.integers(1, height - y + 1))
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[y : y + h, x : x + w] = 255
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        noise = noise_boxes(draw, height, width)
        for box in noise[:4]:
            annotate(box, 0)
        annotate([0, 0, width, height], 0, crowd=True)
        annotate([x, y, w, h], PAINTED)
        for box in noise[4:]:
            annotate(box, 0)
    categories = [{"id": number, "name": str(number)} for number in range(1, 10)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "all.json").write_text(json.dumps(content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return folder, AnnotationFile(folder / "all.json")


def samples(painted: tuple[Path, AnnotationFile], pipeline: DetectionPipeline) -> Iterator[dict[str, Any]]:
    folder, file = painted
    dataset = COCODataset(folder, file, np.arange(len(file.class_names)), pipeline.training(), seed=0, training=True)
    return (dataset[SampleKey(epoch, index, False)] for epoch in range(EPOCHS) for index in range(len(dataset)))


@pytest.fixture(scope="module", params=PIPELINES)
def drawn(request: pytest.FixtureRequest, painted: tuple[Path, AnnotationFile]) -> tuple[str, list[dict[str, Any]]]:
    """All samples of a pipeline, drawn once for the tests that look at them."""
    return request.param, list(samples(painted, PIPELINES[request.param]))


def test_boxes_stay_inside_aligned_and_at_least_a_pixel(drawn: tuple[str, list[dict[str, Any]]]) -> None:
    pipeline, found = drawn
    kept, least = 0, EPOCHS * IMAGES * (1 if pipeline.startswith("ssd") else 2) // 2  # SSD drops what is cut through
    for sample in found:
        target, (_, height, width) = sample["target"], sample["image"].shape
        boxes = target["boxes"].numpy()
        assert boxes.shape == (len(boxes), 4) and np.isfinite(boxes).all()
        assert (boxes >= 0).all() and (boxes <= [width, height, width, height]).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 1 - 1e-4).all()
        assert len(boxes) == len(target["labels"]) == len(target["area"]) == len(target["iscrowd"])
        assert not target["iscrowd"].any()
        for label, number in zip(target["labels"].tolist(), target["area"].tolist(), strict=True):
            assert label in (PAINTED - 1, (2 + number % 7) - 1), "a label belongs to another annotation"
        assert len(set(target["area"].tolist())) == len(boxes)
        kept += len(boxes)
    assert kept > least


def test_boxes_move_with_the_pixels(drawn: tuple[str, list[dict[str, Any]]]) -> None:
    checked = 0
    for sample in drawn[1]:
        boxes = sample["target"]["boxes"][sample["target"]["labels"] == PAINTED - 1].numpy()
        blur = 2 * max(sample["image"].shape) / min(sample["target"]["original_size"].tolist())
        if len(boxes) == 0 or (boxes[0, 2:] - boxes[0, :2]).min() < max(3.0, blur):
            continue  # too thin to be seen, or no more than a blurred corner
        rows, columns = np.nonzero(sample["image"][0].numpy() > 127)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(boxes[0] - seen).max() <= 2, (boxes[0], seen)
        checked += 1
    assert checked > 20


@pytest.mark.parametrize("drawn", ["resized", "stretched", "shorter"], indirect=True)
def test_boxes_are_lost_only_when_smaller_than_a_pixel(
    drawn: tuple[str, list[dict[str, Any]]], painted: tuple[Path, AnnotationFile]
) -> None:
    file = painted[1]
    for sample in drawn[1]:
        index = sample["target"]["image_id"]
        where = file.of_image(index)
        box = file.boxes[where][file.labels[where] == PAINTED - 1][0]
        scale = np.array(sample["image"].shape[:0:-1]) / file.sizes[index][::-1]
        sides = box[2:] * scale
        present = PAINTED - 1 in sample["target"]["labels"]
        assert present == (sides.min() >= 1) or abs(sides.min() - 1) < 1e-3


@pytest.mark.parametrize(
    ("size", "bounds", "expected"),
    [((100, 200), (50, 50), (25, 50)), ((200, 100), (50, 80), (50, 25)), ((1, 1000), (50, 50), (1, 50))],
)
def test_fit_size(size: tuple[int, int], bounds: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fit_size(size, bounds) == expected
    assert fit_size(size, bounds, keep_ratio=False) == bounds


@pytest.mark.parametrize(
    ("size", "expected"), [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((100, 1000), (133, 1333))]
)
def test_shorter_side_size_is_that_of_detectron(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert shorter_side_size(size, 800, 1333) == expected


def draw(transforms: list[A.BasicTransform], index: int, **targets: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    pipeline = A.Compose(transforms)
    seed_transforms(pipeline, 0, SampleKey(0, index, False))
    return pipeline(**targets)


def painted_mask(height: int = 96, width: int = 144) -> NDArray[np.uint8]:
    """Blocks of the labels 0..8 and 255."""
    labels = np.array([[0, 1, 2, 255], [3, 4, 5, 6], [7, 8, 0, 1]], np.uint8)
    return cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def colours(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(np.where(mask == 255, 250, mask * 25)[:, :, None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize("size", [(96, 144), (144, 96), (100, 333), (7, 11)])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_ratio_crop_keeps_image_and_mask_aligned(size: tuple[int, int], flip: float) -> None:
    mask = painted_mask(*size)
    crop = RatioCrop((288, 96), (0.5, 2.0), (64, 64), 0.75, ignore_index=255)
    shapes = set()
    for index in range(40):
        out = draw([crop, A.HorizontalFlip(p=flip)], index, image=colours(mask), mask=mask)
        assert out["image"].shape[:2] == out["mask"].shape and max(out["mask"].shape) <= 64
        assert set(np.unique(out["mask"])) <= set(np.unique(mask)), "labels must not be invented"
        shapes.add(out["mask"].shape)
        seam = int(np.ceil(192 / min(size) / 2)) + 1  # reach of the blur between two colours, also across the border
        kernel = np.ones((2 * seam + 1, 2 * seam + 1))
        inside = cv2.erode(out["mask"], kernel) == cv2.dilate(out["mask"], kernel)
        inside &= np.pad(np.ones(np.subtract(inside.shape, 2 * seam), bool), seam)
        wrong = np.abs(out["image"].astype(int) - colours(out["mask"])).max(axis=2) > 2
        assert not (wrong & inside).any()
        if min(size) > 90:
            assert inside.mean() > 0.2
    assert len(shapes) > 1


def test_ratio_crop_draws_until_the_classes_are_mixed() -> None:
    mask = np.zeros((64, 192), np.uint8)
    mask[:, 96:] = 1
    mask[:, ::8] = 255  # ignored pixels count for nothing

    def mixed(max_share: float) -> float:
        crop = RatioCrop((192, 64), (1.0, 1.0), (64, 64), max_share, ignore_index=255)
        shares = []
        for index in range(100):
            out = draw([crop], index, image=colours(mask), mask=mask)["mask"]
            zeros, ones = (out == 0).sum(), (out == 1).sum()
            shares.append(max(zeros, ones) / (zeros + ones))
        return float(np.mean(np.array(shares) < 0.75))

    assert mixed(max_share=0.75) > 0.9
    assert mixed(max_share=1.0) < 0.7


@pytest.mark.parametrize("label", [3, 255])
def test_ratio_crop_takes_what_there_is(label: int) -> None:
    mask = np.full((64, 96), label, np.uint8)
    out = draw([RatioCrop((96, 64), (1, 1), (32, 32), 0.75, 255)], 0, image=colours(mask), mask=mask)
    assert out["mask"].shape == (32, 32) and (out["mask"] == label).all()


class Scripted:
    """Random numbers that a test has written down, by the method that asks."""

    def __init__(self, coins: str, **values: float) -> None:
        self.coins, self.values = iter(coins), values
        self.asked: list[tuple[float, float]] = []

    def random(self) -> float:
        return 0.0 if next(self.coins) == "1" else 0.9

    def uniform(self, low: float, high: float) -> float:
        self.asked.append((low, high))
        return self.values["uniform"]

    def randint(self, low: int, high: int) -> int:
        self.asked.append((low, high))
        return int(self.values["randint"])


def distorted(pixels: list[list[int]], coins: str, **values: float) -> list[list[int]]:
    """Coins: brightness, contrast before colour, contrast, saturation, hue."""
    transform, script = PhotoMetricDistortion(), Scripted(coins, **values)
    transform.set_random_state(np.random.default_rng(0), script)
    image = np.array([pixels], dtype=np.uint8)
    out = transform.apply(image.copy())
    assert out.dtype == np.uint8 and out.shape == image.shape
    assert next(script.coins, None) is None, "every coin must be thrown once"
    return out[0].tolist()


GREYS = [[0, 0, 0], [100, 100, 100], [200, 200, 200], [255, 255, 255]]


@pytest.mark.parametrize("order", "01")
def test_photometric_distortion_without_luck_changes_nothing(order: str) -> None:
    pixels = [[1, 2, 3], [250, 0, 128], [17, 99, 254]]
    assert distorted(pixels, f"0{order}000") == pixels


@pytest.mark.parametrize(("shift", "expected"), [(32, [32, 132, 232, 255]), (-32, [0, 68, 168, 223])])
def test_brightness(shift: int, expected: list[int]) -> None:
    assert distorted(GREYS, "10000", uniform=shift) == [[value] * 3 for value in expected]


@pytest.mark.parametrize("order", "01")
@pytest.mark.parametrize(("factor", "expected"), [(1.5, [0, 150, 255, 255]), (0.5, [0, 50, 100, 127])])
def test_contrast(factor: float, expected: list[int], order: str) -> None:
    assert distorted(GREYS, f"0{order}100", uniform=factor) == [[value] * 3 for value in expected]


def test_saturation() -> None:
    grey_stays, red_fades = distorted([[100, 100, 100], [200, 0, 0]], "00010", uniform=0.5)
    assert grey_stays == [100, 100, 100]
    assert red_fades == pytest.approx([200, 100, 100], abs=1)


@pytest.mark.parametrize(("turn", "expected"), [(60, [0, 200, 0]), (-60, [0, 0, 200]), (-15, [200, 0, 100])])
def test_hue(turn: int, expected: list[int]) -> None:
    assert distorted([[200, 0, 0], [90, 90, 90]], "00001", randint=turn) == [
        pytest.approx(expected, abs=1),
        [90, 90, 90],
    ]


def test_contrast_comes_before_or_after_colour() -> None:
    pixels = [[250, 30, 60]]
    assert distorted(pixels, "01110", uniform=1.5) != distorted(pixels, "00110", uniform=1.5)


def test_photometric_distortion_draws_mmsegmentations_ranges() -> None:
    script = Scripted("11111", uniform=1.0, randint=1)
    transform = PhotoMetricDistortion()
    transform.set_random_state(np.random.default_rng(0), script)
    transform.apply(np.zeros((1, 1, 3), np.uint8))
    assert script.asked == [(-32, 32), (0.5, 1.5), (0.5, 1.5), (-18, 17)]


def test_photometric_distortion_keeps_shape_type_and_input() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 5, 3), dtype=np.uint8)
    before, results = image.copy(), set()
    for index in range(50):
        out = draw([PhotoMetricDistortion()], index, image=image)["image"]
        assert out.dtype == np.uint8 and out.shape == image.shape
        results.add(out.tobytes())
    assert (image == before).all() and 35 < len(results) <= 50


class Draws:
    """numpy.random as MMSegmentation calls it, answered with what a test has written down."""

    def __init__(self, coins: str, uniform: list[float], hue: int) -> None:
        self.coins, self.numbers, self.hue = iter(coins), iter(uniform), hue

    def randint(self, low: int, high: int | None = None) -> int:
        return int(next(self.coins)) if high is None else self.hue

    def random(self) -> float:
        return 0.0 if next(self.coins) == "1" else 0.9

    def uniform(self, low: float, high: float) -> float:
        return next(self.numbers)


@pytest.mark.parametrize("coins", ["10000", "11100", "10100", "00010", "00001", "11110", "10101", "11111", "10111"])
def test_photometric_distortion_is_mmsegmentations(coins: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmseg.datasets.transforms import transforms as theirs

    both = coins.endswith("11")  # saturation and hue: they convert, and round, twice
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for values in ([20.7, 1.3, 1.2], [-31.2, 0.55, 0.6], [3.0, 1.0, 1.5]):
        order = [values[0]] if coins[0] == "1" else []
        contrast, saturation = ([values[1]] if coins[2] == "1" else []), ([values[2]] if coins[3] == "1" else [])
        theirs_order = order + (contrast + saturation if coins[1] == "1" else saturation + contrast)
        # They throw the coin of a late contrast last.
        theirs_coins = coins if coins[1] == "1" else coins[:2] + coins[3:] + coins[2]
        monkeypatch.setattr(theirs, "random", Draws(theirs_coins, theirs_order, -7))
        expected = theirs.PhotoMetricDistortion().transform({"img": image[..., ::-1].copy()})["img"][..., ::-1]
        transform = PhotoMetricDistortion()
        draws = Draws(coins, order + contrast + saturation, -7)
        draws.randint = lambda low, high: -7  # type: ignore[method-assign]
        transform.set_random_state(np.random.default_rng(0), draws)
        difference = np.abs(transform.apply(image).astype(int) - expected)
        assert difference.mean() <= (3 if both else 0) and (both or difference.max() <= 1)


def test_ratio_crop_takes_mmsegmentations_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcv.transforms import RandomResize

    for ratio in np.linspace(0.5, 2, 30).tolist():
        for size in ((480, 640), (683, 512), (333, 1500)):
            crop = RatioCrop((2048, 512), (ratio, ratio), (9999, 9999), 1.0, 255)
            ours = draw([crop], 0, image=np.zeros((*size, 3), np.uint8))["image"].shape[:2]
            resize = RandomResize(scale=(2048, 512), ratio_range=(ratio, ratio), keep_ratio=True)
            theirs = resize({"img": np.zeros((*size, 3), np.uint8)})["img"].shape[:2]
            assert np.abs(np.subtract(ours, theirs)).max() <= 1


def test_segmentation_draws_stay_aligned_with_flip_and_colour() -> None:
    masks = [painted_mask(*size) for size in ((96, 144), (60, 50))]
    chain = RandomRatioCrop(longest=288, shorter=96, crop=64, photometric=False).training()
    mirrored = 0
    for index in range(200):
        mask = masks[index % 2]
        out = draw(chain, index, image=colours(mask), mask=mask)
        assert out["image"].shape[:2] == out["mask"].shape
        kernel = np.ones((9, 9))
        inside = cv2.erode(out["mask"], kernel) == cv2.dilate(out["mask"], kernel)
        inside &= np.pad(np.ones(np.subtract(inside.shape, 8), bool), 4)
        assert (np.abs(out["image"].astype(int) - colours(out["mask"])).max(axis=2)[inside] <= 2).all()
        mirrored += bool(chain[0].params["window"].mirrored)
    assert 60 < mirrored < 140


def test_zoom_and_crop_keeps_an_object_with_its_centre_inside() -> None:
    chain = A.Compose(
        [ZoomAndCrop((50, 50), zoom_out=0.5)], A.BboxParams("pascal_voc", label_fields=["row"], clip=True)
    )
    image = np.zeros((100, 200, 3), np.uint8)
    boxes = np.array([[10, 10, 61, 61], [150, 20, 191, 91], [95, 45, 106, 56]], np.float32)
    sides, whole_images, zoomed = [], 0, 0
    for index in range(400):
        seed_transforms(chain, 0, SampleKey(0, index, False))
        out = chain(image=image, bboxes=boxes, row=np.arange(3))
        window = chain.transforms[0].params["window"]
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = (centres > [window.left, window.top]) & (
            centres < [window.left + window.width, window.top + window.height]
        )
        assert out["image"].shape == (50, 50, 3)
        assert sorted(map(int, out["row"])) == np.flatnonzero(inside.all(axis=1)).tolist() != []
        sides.append((window.height, window.width))
        whole_images += window[:4] == (0, 0, 100, 200)
        zoomed += window.height > 100 or window.width > 200
        assert window.height <= 400 and window.width <= 800
    assert 20 < whole_images and 60 < zoomed < 200
    assert min(height for height, _ in sides) >= 30 and min(width for _, width in sides) >= 50


def test_zoom_and_crop_leaves_images_without_boxes_whole() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    for index in range(20):
        assert (draw([ZoomAndCrop((30, 40), zoom_out=0.0)], index, image=image)["image"] == image).all()
