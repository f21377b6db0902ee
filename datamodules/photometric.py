"""Changes of colour that move no pixel."""

from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

_LEVELS = np.arange(256, dtype=np.uint8)


class PhotoMetricDistortion(A.ImageOnlyTransform):
    """Brightness, contrast, saturation and hue, each with probability one half, as in SSD and MMSegmentation.

    Contrast comes before or after the colour changes, at random. All is done in tables of the 256 grey levels; chained
    tables become one. Saturation and hue share one conversion to HSV and back, where MMSegmentation makes two and
    rounds twice.

    Args:
        brightness: Largest shift in grey levels.
        contrast: Range of the contrast factor.
        saturation: Range of the saturation factor.
        hue: Limit of the shift of the hue, in OpenCV's units of 2 degrees; -hue is drawn, +hue is not, as in
            MMSegmentation.
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
        table = _LEVELS
        if draw.random() < 0.5:
            table = _scale_and_shift(table, 1.0, draw.uniform(-self.brightness, self.brightness))
        contrast_first = draw.random() < 0.5
        contrast = draw.uniform(*self.contrast) if draw.random() < 0.5 else 1.0
        if contrast_first:
            table = _scale_and_shift(table, contrast, 0.0)
        saturation = draw.uniform(*self.saturation) if draw.random() < 0.5 else 1.0
        hue = draw.randint(-self.hue, max(self.hue, 1) - 1) if draw.random() < 0.5 else 0
        last = _LEVELS if contrast_first else _scale_and_shift(_LEVELS, contrast, 0.0)
        if saturation == 1.0 and hue == 0:
            return _look_up(img, last[table])
        saturations, hues = _scale_and_shift(_LEVELS, saturation, 0.0), ((np.arange(256) + hue) % 180).astype(np.uint8)
        return _look_up(_change_colour(_look_up(img, table), hues, saturations), last)


def _scale_and_shift(levels: NDArray[np.uint8], factor: float, shift: float) -> NDArray[np.uint8]:
    """Levels times factor plus shift, cut off to whole levels."""
    return np.clip(levels.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)


def _look_up(img: NDArray[np.uint8], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return img if (table == _LEVELS).all() else np.asarray(cv2.LUT(img, table))


def _change_colour(
    img: NDArray[np.uint8], hues: NDArray[np.uint8], saturations: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Looks hue and saturation up in tables."""
    hue, saturation, value = cv2.split(cv2.cvtColor(img, cv2.COLOR_RGB2HSV))
    hsv = cv2.merge([_look_up(hue, hues), _look_up(saturation, saturations), value])
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
