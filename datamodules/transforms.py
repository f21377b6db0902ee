"""Transforms that albumentations lacks: resize and crop in one draw, and MMSegmentation's photometric distortion."""

from abc import abstractmethod
from typing import Any, NamedTuple

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]
"""(height, width) in pixels."""


class Window(NamedTuple):
    """A resize followed by a crop.

    Attributes:
        size: Size that the whole image is resized to.
        crop: Size of the part that is kept.
        top: First row that is kept, in pixels of the resized image.
        left: First column that is kept, in pixels of the resized image.
    """

    size: Size
    crop: Size
    top: int = 0
    left: int = 0


class ResizeAndCrop(A.DualTransform):
    """Base of transforms that resize an image and keep a window of it; boxes and masks follow.

    A subclass draws the window. Images are interpolated bilinearly (by area when a side shrinks to less than half and
    none grows), masks by nearest neighbour.
    """

    def __init__(self) -> None:
        super().__init__(p=1.0)

    @abstractmethod
    def draw_window(self, size: Size, mask: NDArray[np.uint8] | None) -> Window:
        """Chooses the window for an image of the given size."""

    @property
    def targets_as_params(self) -> list[str]:
        """No target is required: a mask is used where there is one."""
        return []

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draws the window once for the image, its boxes and its mask."""
        height, width = params["shape"][:2]
        return {"window": self.draw_window((height, width), data.get("mask"))}

    def apply(self, img: NDArray[np.uint8], window: Window, **params: Any) -> NDArray[np.uint8]:
        """Resizes and crops the image."""
        (height, width), size = img.shape[:2], window.size
        by_area = size[0] <= height and size[1] <= width and (size[0] * 2 < height or size[1] * 2 < width)
        return _resample(img, window, cv2.INTER_AREA if by_area else cv2.INTER_LINEAR)  # growth by area moves edges

    def apply_to_mask(self, mask: NDArray[np.uint8], window: Window, **params: Any) -> NDArray[np.uint8]:
        """Resizes and crops the mask without inventing labels."""
        return _resample(mask, window, cv2.INTER_NEAREST_EXACT)

    def apply_to_bboxes(self, bboxes: NDArray[np.float32], window: Window, **params: Any) -> NDArray[np.float32]:
        """Moves boxes (N, 4+) in fractions of the image into fractions of the window; albumentations clips them."""
        (height, width), (crop_height, crop_width), top, left = window
        moved = bboxes.copy()
        moved[:, [0, 2]] = (bboxes[:, [0, 2]] * width - left) / crop_width
        moved[:, [1, 3]] = (bboxes[:, [1, 3]] * height - top) / crop_height
        return moved


def _resample(pixels: NDArray[np.uint8], window: Window, interpolation: int) -> NDArray[np.uint8]:
    (height, width), (crop_height, crop_width), top, left = window
    if pixels.shape[:2] != (height, width):
        pixels = cv2.resize(pixels, (width, height), interpolation=interpolation)
    return np.ascontiguousarray(pixels[top : top + crop_height, left : left + crop_width])


def fit_size(size: Size, bounds: Size, keep_ratio: bool = True) -> Size:
    """The largest size with the image's aspect ratio inside the bounds, or the bounds themselves."""
    if not keep_ratio:
        return bounds
    scale = min(bounds[0] / size[0], bounds[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def shorter_side_size(size: Size, shorter: int, longest: int) -> Size:
    """The size whose shorter side is `shorter`, or smaller so that the longer side does not exceed `longest`."""
    scale = min(shorter / min(size), longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


class ResizeShorterSide(ResizeAndCrop):
    """Resizes so that the shorter side gets one of several lengths, drawn uniformly.

    Args:
        shorter: Lengths of the shorter side in pixels.
        longest: Limit of the longer side in pixels.
    """

    def __init__(self, shorter: list[int], longest: int) -> None:
        super().__init__()
        self.shorter, self.longest = shorter, longest

    def draw_window(self, size: Size, mask: NDArray[np.uint8] | None) -> Window:
        """The whole image at the drawn length."""
        resized = shorter_side_size(size, self.py_random.choice(self.shorter), self.longest)
        return Window(resized, resized)


class ScaleJitterCrop(ResizeAndCrop):
    """Fits the image into a frame times a random factor and keeps a random window of at most the frame's size.

    Large-scale jitter of Ghiasi et al., arXiv 2012.07177.

    Args:
        frame: Height and width of the network input.
        scale: Range of the factor, drawn uniformly; (1, 1) only resizes.
        keep_ratio: Keep the aspect ratio; otherwise the image fills the frame.
    """

    def __init__(self, frame: Size, scale: tuple[float, float], keep_ratio: bool) -> None:
        super().__init__()
        self.frame, self.scale, self.keep_ratio = frame, scale, keep_ratio

    def draw_window(self, size: Size, mask: NDArray[np.uint8] | None) -> Window:
        """A window at a random place."""
        factor = self.py_random.uniform(*self.scale)
        bounds = (max(1, round(self.frame[0] * factor)), max(1, round(self.frame[1] * factor)))
        resized = fit_size(size, bounds, self.keep_ratio)
        crop = (min(self.frame[0], resized[0]), min(self.frame[1], resized[1]))
        top, left = self.py_random.randint(0, resized[0] - crop[0]), self.py_random.randint(0, resized[1] - crop[1])
        return Window(resized, crop, top, left)


class RatioCrop(ResizeAndCrop):
    """MMSegmentation's RandomResize and RandomCrop: a random ratio of a reference scale, then a crop of mixed content.

    Args:
        scale: Reference (longer, shorter) side in pixels; the image is fitted into it, times the ratio.
        ratio: Range of the ratio, drawn uniformly.
        crop: Height and width of the crop.
        max_share: Largest share of one class among the labelled pixels of a crop (`cat_max_ratio`); a crop above it,
            or of a single class, is drawn again.
        ignore_index: Label that does not count.
    """

    DRAWS = 10
    """Crops that are drawn before the last one is taken whatever it holds."""

    def __init__(
        self, scale: Size, ratio: tuple[float, float], crop: Size, max_share: float, ignore_index: int
    ) -> None:
        super().__init__()
        self.scale, self.ratio, self.crop = scale, ratio, crop
        self.max_share, self.ignore_index = max_share, ignore_index

    def draw_window(self, size: Size, mask: NDArray[np.uint8] | None) -> Window:
        """A window whose labels are mixed enough."""
        ratio = self.py_random.uniform(*self.ratio)
        resized = shorter_side_size(size, round(min(self.scale) * ratio), round(max(self.scale) * ratio))
        crop = (min(self.crop[0], resized[0]), min(self.crop[1], resized[1]))
        labels = None if mask is None else _resample(mask, Window(resized, resized), cv2.INTER_NEAREST_EXACT)
        for _ in range(self.DRAWS):
            top, left = self.py_random.randint(0, resized[0] - crop[0]), self.py_random.randint(0, resized[1] - crop[1])
            window = Window(resized, crop, top, left)
            if labels is None or self._is_mixed(labels[top : top + crop[0], left : left + crop[1]]):
                break
        return window

    def _is_mixed(self, labels: NDArray[np.uint8]) -> bool:
        counts = np.bincount(labels.reshape(-1), minlength=256)
        counts[self.ignore_index] = 0
        return bool(np.count_nonzero(counts) > 1 and counts.max() < self.max_share * counts.sum())


class PhotoMetricDistortion(A.ImageOnlyTransform):
    """Brightness, contrast, saturation and hue, each with probability one half, as in SSD and MMSegmentation.

    Contrast comes before or after the colour changes, at random.

    Args:
        brightness: Largest shift in grey levels.
        contrast: Range of the contrast factor.
        saturation: Range of the saturation factor.
        hue: Largest shift of the hue, in OpenCV's units of 2 degrees.
    """

    def __init__(
        self,
        brightness: int = 32,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: int = 18,
    ) -> None:
        super().__init__(p=1.0)
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    def apply(self, img: NDArray[np.uint8], **params: Any) -> NDArray[np.uint8]:
        """Distorts (H, W, 3) RGB pixels."""
        draw = self.py_random
        if draw.random() < 0.5:
            img = _scale_and_shift(img, 1.0, draw.uniform(-self.brightness, self.brightness))
        contrast_first = draw.random() < 0.5
        contrast = draw.uniform(*self.contrast) if draw.random() < 0.5 else 1.0
        if contrast_first:
            img = _scale_and_shift(img, contrast, 0.0)
        saturation = draw.uniform(*self.saturation) if draw.random() < 0.5 else 1.0
        hue = draw.randint(-self.hue, self.hue) if draw.random() < 0.5 else 0
        img = _change_colour(img, saturation, hue)
        return img if contrast_first else _scale_and_shift(img, contrast, 0.0)


def _scale_and_shift(img: NDArray[np.uint8], factor: float, shift: float) -> NDArray[np.uint8]:
    """Applies factor * x + shift by a table of the 256 grey levels."""
    if factor == 1.0 and shift == 0.0:
        return img
    table = np.clip(np.arange(256) * factor + shift, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(img, table))


def _change_colour(img: NDArray[np.uint8], saturation: float, hue: int) -> NDArray[np.uint8]:
    """Scales the saturation and turns the hue (0..179)."""
    if saturation == 1.0 and hue == 0:
        return img
    hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV)
    levels = np.arange(256)
    tables = [(levels + hue) % 180, np.clip(levels * saturation, 0, 255), levels]
    hsv = cv2.LUT(hsv, np.stack(tables, axis=-1).astype(np.uint8)[None])
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
