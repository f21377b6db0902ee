"""Swin's two-branch training pipeline: one window does what its three steps do one after the other."""

import random

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from datamodules import DataError, MultiScaleCrop
from datamodules.geometry import ResizeOrCropAndResize
from datamodules.resampling import Size, resample_image, resample_mask

SHORTER, LONGEST = tuple(range(480, 801, 32)), 1333


def resized(size: Size, shorter: int) -> Size:
    """Both sides in proportion: the shorter one of a length, the longer one no longer than 1333, whole pixels."""
    scale = min(shorter / min(size), LONGEST / max(size))
    return round(size[0] * scale), round(size[1] * scale)


def resize(pixels: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR))


def nearest(mask: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT))


class Steps:
    """The recipe step by step, with the random numbers of a seed."""

    def __init__(self, size: Size, seed: int) -> None:
        draw = random.Random(seed)
        self.size, self.crop = size, None
        if draw.random() < 0.5:
            self.first = resized(size, draw.choice((400, 500, 600)))
            height = draw.randint(min(384, self.first[0]), min(600, self.first[0]))
            width = draw.randint(min(384, self.first[1]), min(600, self.first[1]))
            top, left = draw.randint(0, self.first[0] - height), draw.randint(0, self.first[1] - width)
            self.crop = (top, left, height, width)
            size = (height, width)
        self.last = resized(size, draw.choice(SHORTER))

    def boxes(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        height, width = self.size
        if self.crop:
            top, left, crop_height, crop_width = self.crop
            boxes = boxes * np.tile([self.first[1] / width, self.first[0] / height], 2) - [left, top, left, top]
            boxes = boxes.clip(0, [crop_width, crop_height] * 2)
            height, width = crop_height, crop_width
        return boxes * np.tile([self.last[1] / width, self.last[0] / height], 2)

    def image(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.crop:
            top, left, height, width = self.crop
            pixels = resize(pixels, self.first)[top : top + height, left : left + width]
        return resize(pixels, self.last)

    def mask(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.crop:
            top, left, height, width = self.crop
            mask = nearest(mask, self.first)[top : top + height, left : left + width]
        return nearest(mask, self.last)


def check(size: Size, seed: int, pixels: bool) -> str:
    transform = ResizeOrCropAndResize(list(SHORTER), LONGEST, [400, 500, 600], (384, 600))
    transform.set_random_state(np.random.default_rng(0), random.Random(seed))
    window, steps = transform.draw_window(size, None, np.zeros((0, 4), np.float32)), Steps(size, seed)
    assert window.size == steps.last and not window.mirrored
    draw = np.random.default_rng(seed)
    boxes = np.sort(draw.random((9, 2, 2)), axis=1) * size[::-1]
    moved = window.move(boxes).clip(0, window.size[::-1]).reshape(-1, 4)
    assert moved == pytest.approx(steps.boxes(boxes.reshape(-1, 4)), abs=1e-9)
    if pixels:
        noise = draw.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3), dtype=np.uint8)
        image = cv2.GaussianBlur(cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC), (0, 0), 3)
        difference = np.abs(resample_image(image, window).astype(int) - steps.image(image))
        assert difference.mean() < 1 and difference[4:-4, 4:-4].max() <= 8
        mask = (image[..., 0] > 128).astype(np.uint8)
        ours, theirs = resample_mask(mask, window, fill=0), steps.mask(mask)
        reach = max(window.size[0] / window.height, window.size[1] / window.width)
        kernel = np.ones((2 * round(reach + 1.5) + 1,) * 2, np.uint8)  # two roundings to whole pixels against one
        assert not ((ours != theirs) & (cv2.dilate(ours, kernel) == cv2.erode(ours, kernel))).any()
    return "crop" if steps.crop else "whole"


@pytest.mark.parametrize(
    "size", [(480, 640), (640, 427), (333, 500), (1200, 400), (100, 130), (40, 1000), (2000, 3000)]
)
def test_one_window_is_the_three_steps(size: Size) -> None:
    branches = [check(size, seed, pixels=False) for seed in range(60)]
    assert 15 < branches.count("crop") < 45


@pytest.mark.parametrize(("size", "seeds"), [((480, 640), 4), ((333, 250), 4)])
def test_one_interpolation_is_close_to_two(size: Size, seeds: int) -> None:
    assert {check(size, seed, pixels=True) for seed in range(seeds)} == {"crop", "whole"}


def test_defaults_are_the_published_recipe() -> None:
    pipeline = MultiScaleCrop()
    (training,), (evaluation,) = pipeline.training(), pipeline.evaluation()
    assert training.shorter == [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800] and training.longest == 1333
    assert training.before == [400, 500, 600] and training.crop == (384, 600) and training.flip == 0.5
    assert (evaluation.shorter, evaluation.longest, evaluation.flip) == ([800], 1333, 0.0)
    assert pipeline.image_size == (800, 1333) and pipeline.frame is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shorter": ()}, r"shorter is \(\), expected at least one length in pixels"),
        ({"before_crop": ()}, r"before_crop is \(\), expected"),
        ({"before_crop": (400, 0)}, "before_crop is 0, expected at least 1 pixel"),
        ({"crop": (0, 5)}, "crop is 0, expected at least 1 pixel"),
        ({"crop": (600, 384)}, r"crop is \(600, 384\), expected 0 < first <= second"),
        ({"longest": 0}, "longest is 0"),
        ({"flip": 2.0}, "flip is"),
    ],
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}"):
        MultiScaleCrop(**options)
