"""Interpolating a window gives what resizing the whole image and cropping gives."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from datamodules.images import list_images, read_image
from datamodules.resampling import Window, crop_of_resized, resample_image, resample_mask, whole

Draw = tuple[Window, tuple[int, int], tuple[slice, slice]]


def draw_crop(draw: np.random.Generator, size: tuple[int, int]) -> Draw:
    """A window, the size of the whole resized image, and where the window lies in it."""
    factor = np.exp(draw.uniform(np.log(0.1), np.log(4)))
    stretch = draw.choice([1.0, 1.0, draw.uniform(0.5, 2)])
    resized = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor * stretch)))
    crop = (int(draw.integers(1, resized[0] + 1)), int(draw.integers(1, resized[1] + 1)))
    top, left = (int(draw.integers(0, resized[axis] - crop[axis] + 1)) for axis in (0, 1))
    window = crop_of_resized(size, resized, top, left, crop)
    return window, resized, (slice(top, top + crop[0]), slice(left, left + crop[1]))


def resized_then_cropped(
    image: NDArray[np.uint8], resized: tuple[int, int], where: tuple[slice, slice]
) -> NDArray[np.uint8]:
    shrinks = resized[0] <= image.shape[0] and resized[1] <= image.shape[1]
    by_area = shrinks and (resized[0] * 2 < image.shape[0] or resized[1] * 2 < image.shape[1])
    interpolation = cv2.INTER_AREA if by_area else cv2.INTER_LINEAR
    return cv2.resize(image, resized[::-1], interpolation=interpolation)[where]


def check(image: NDArray[np.uint8], draws: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    for _ in range(draws):
        window, resized, where = draw_crop(draw, image.shape[:2])
        ours, expected = resample_image(image, window), resized_then_cropped(image, resized, where)
        assert ours.shape == expected.shape and ours.dtype == np.uint8 and ours.flags.c_contiguous
        difference = np.abs(ours.astype(int) - expected)
        assert difference.mean() <= 1 and difference.max() <= 10, (window, difference.mean(), difference.max())


@pytest.mark.parametrize("seed", range(20))
def test_window_is_the_crop_of_the_resized_image(seed: int) -> None:
    draw = np.random.default_rng(seed)
    size = draw.integers(1, 200, 2) if seed % 4 else draw.integers(1, 9, 2)
    check(cv2.GaussianBlur(draw.integers(0, 256, (*size, 3), dtype=np.uint8), (5, 5), 1.5), 20, seed)


def test_window_is_the_crop_of_the_resized_photograph(shared_data: Callable[[str], Path]) -> None:
    for seed, path in enumerate(list_images(str(shared_data("coco-free") / "train2017"))[:8]):
        check(read_image(path), 8, seed)


@pytest.mark.parametrize("resized", [(99, 151), (101, 149), (100, 150), (200, 300), (50, 75), (33, 50), (40, 190)])
def test_scales_near_1_whole_ratios_and_one_side_that_grows(resized: tuple[int, int]) -> None:
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8), (5, 5), 1.5)
    for top in range(0, resized[0] - 20, 7):
        where = (slice(top, top + 20), slice(2 * top % 25, 2 * top % 25 + 25))
        window = crop_of_resized((100, 150), resized, top, 2 * top % 25, (20, 25))
        difference = np.abs(resample_image(image, window).astype(int) - resized_then_cropped(image, resized, where))
        assert difference.mean() <= 0.7 and difference.max() <= 4


def test_mask_takes_the_nearest_pixel() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        height, width = (int(side) for side in draw.integers(1, 100, 2))
        rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        window, _, _ = draw_crop(draw, (height, width))
        at = window.top + (np.arange(window.size[0]) + 0.5) * window.height / window.size[0] - 0.5
        assert (np.abs(resample_mask(rows.astype(np.uint8), window) - at[:, None]) <= 0.5 + 1e-6).all()
        at = window.left + (np.arange(window.size[1]) + 0.5) * window.width / window.size[1] - 0.5
        assert (np.abs(resample_mask(columns.astype(np.uint8), window) - at) <= 0.5 + 1e-6).all()


def test_mirrored_windows_are_flipped() -> None:
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8), (5, 5), 1.5)
    for window in (
        whole((60, 80), (90, 131)),
        Window(3.3, 7.7, 20, 30, (50, 40)),
        Window(-20, -10, 100, 150, (64, 64)),
    ):
        mirrored = window._replace(mirrored=True)
        difference = resample_image(image, mirrored).astype(int) - resample_image(image, window)[:, ::-1]
        assert np.abs(difference).max() <= 1
        mask = image[..., 0].copy()
        assert (resample_mask(mask, mirrored) == resample_mask(mask, window)[:, ::-1]).all()


def test_outside_is_filled_and_the_image_keeps_its_place() -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    for top, left, height, width in [(-40, -60, 120, 180), (-10, 0, 40, 60), (-7, -3, 160, 240), (20, 30, 40, 60)]:
        window = Window(top, left, height, width, (97, 131))
        output = resample_image(image, window, fill=(1, 2, 3))
        mask = resample_mask(image[..., 0].copy(), window)
        assert ((output == (1, 2, 3)).all(axis=2) == (mask == 255)).all()
        assert ((output == 200).all(axis=2) == (mask == 200)).all()
        rows = np.flatnonzero((mask == 200).any(axis=1))
        expected = np.clip(np.array([-top, 40 - top]) * 97 / height, 0, 97)
        assert np.abs([rows[0], rows[-1] + 1] - expected).max() <= 0.5 + 1e-6
    assert (resample_image(image, Window(-90, 0, 40, 60, (8, 8)), fill=(1, 2, 3)) == (1, 2, 3)).all()


def test_colour_is_changed_where_there_are_fewer_pixels() -> None:
    image, seen = np.full((40, 60, 3), 100, np.uint8), []

    def recolour(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        seen.append(pixels.shape[:2])
        return pixels + np.uint8(50)

    for size in ((80, 120), (20, 30)):
        assert (resample_image(image, whole((40, 60), size), recolour=recolour) == 150).all()
    small = resample_image(image, Window(-40, -60, 120, 180, (30, 30)), fill=(9, 9, 9), recolour=recolour)
    assert set(np.unique(small)) == {9, 150}
    assert seen == [(40, 60), (20, 30), (10, 10)]
