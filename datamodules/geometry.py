"""Transforms that resize an image and keep a part of it: images, boxes and masks follow one random window."""

import random
from abc import abstractmethod
from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.mask_values import Labels, ignored_label
from datamodules.resampling import Size, Window, crop_of_resized, resample_image, resample_mask, whole


class ResizeAndCrop(A.DualTransform):
    """Base of transforms that resize an image and keep a window of it; boxes and masks follow.

    A subclass draws the window. Only the pixels that are kept are interpolated. Flip and change of colour are part of
    this transform because they cost less on the pixels of the window before it is enlarged, or after it is shrunk.

    Args:
        flip: Probability of a horizontal flip.
        colour: Change of colour, if any. What lies outside the image is left alone.
        fill: RGB colour of what lies outside the image.

    Attributes:
        window: The one that was drawn last; masks of objects and crowd regions follow it.
    """

    window: Window

    def __init__(
        self, flip: float, colour: A.ImageOnlyTransform | None, fill: tuple[int, int, int] = (0, 0, 0)
    ) -> None:
        super().__init__(p=1.0)
        self.flip, self.colour, self.fill = flip, colour, fill

    def set_random_state(self, random_generator: np.random.Generator, py_random: random.Random) -> None:
        """Shares the random numbers with the change of colour."""
        super().set_random_state(random_generator, py_random)
        if self.colour is not None:
            self.colour.set_random_state(random_generator, py_random)

    @abstractmethod
    def draw_window(self, size: Size, mask: Labels | None, boxes: NDArray[np.float32]) -> Window:
        """Chooses the window.

        Args:
            size: Size of the image.
            mask: (H, W) labels, if there are any.
            boxes: (N, 4) xyxy in pixels of the image.
        """

    @property
    def targets_as_params(self) -> list[str]:
        """No target is required: masks and boxes are used where there are some."""
        return []

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draws the window once for the image, its boxes and its mask."""
        height, width = params["shape"][:2]
        boxes = np.asarray(data.get("bboxes", ()), np.float32)
        boxes = boxes.reshape(len(boxes), -1)[:, :4] * [width, height, width, height] if len(boxes) else _NO_BOXES
        window = self.draw_window((height, width), data.get("mask"), boxes)
        self.window = window._replace(mirrored=self.py_random.random() < self.flip)
        return {"window": self.window}

    def apply(self, img: NDArray[np.uint8], window: Window, **params: Any) -> NDArray[np.uint8]:
        """Resizes, crops, flips and recolours the image."""
        return resample_image(img, window, self.fill, None if self.colour is None else self.colour.apply)

    def apply_to_mask(self, mask: Labels, window: Window, **params: Any) -> Labels:
        """Resizes, crops and flips the mask without inventing labels."""
        return resample_mask(mask, window)

    def apply_to_bboxes(self, bboxes: NDArray[np.float32], window: Window, **params: Any) -> NDArray[np.float32]:
        """Moves boxes (N, 4+) in fractions of the image into fractions of the window; albumentations clips them."""
        height, width = params["shape"][:2]
        moved = bboxes.copy()
        moved[:, [0, 2]] = (bboxes[:, [0, 2]] * width - window.left) / window.width
        moved[:, [1, 3]] = (bboxes[:, [1, 3]] * height - window.top) / window.height
        if window.mirrored:
            moved[:, [0, 2]] = 1 - moved[:, [2, 0]]
        return moved


_NO_BOXES = np.zeros((0, 4), np.float32)


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
        flip: Probability of a horizontal flip.
        colour: Change of colour, if any.
    """

    def __init__(
        self, shorter: list[int], longest: int, flip: float = 0.0, colour: A.ImageOnlyTransform | None = None
    ) -> None:
        super().__init__(flip, colour)
        self.shorter, self.longest = shorter, longest

    def draw_window(self, size: Size, mask: Labels | None, boxes: NDArray[np.float32]) -> Window:
        """The whole image at the drawn length."""
        return whole(size, shorter_side_size(size, self.py_random.choice(self.shorter), self.longest))


class ResizeByRatio(ResizeAndCrop):
    """Resizes to a multiple of the image's own size.

    Args:
        ratio: Of the sides.
    """

    def __init__(self, ratio: float) -> None:
        super().__init__(0.0, None)
        self.ratio = ratio

    def draw_window(self, size: Size, mask: Labels | None, boxes: NDArray[np.float32]) -> Window:
        """The whole image."""
        return whole(size, (max(1, round(size[0] * self.ratio)), max(1, round(size[1] * self.ratio))))


class ResizeOrCropAndResize(ResizeAndCrop):
    """One of two with equal probability: a resize by the shorter side; or a resize, a random crop and that resize.

    The multi-scale crop of DETR (arXiv 2005.12872) in MMDetection's form, which Swin (arXiv 2103.14030) trains with.
    The three steps of the second branch are one window: what they round to whole pixels is rounded here, too (the sizes
    of both resizes, the crop's place and size), and the image is interpolated once instead of twice.

    Args:
        shorter: Lengths of the shorter side of the output in pixels, drawn uniformly.
        longest: Limit of the longer side in pixels, in every resize.
        before: Lengths of the shorter side before the crop, drawn uniformly.
        crop: Least and greatest side of the crop in pixels; both sides are drawn uniformly, and are no longer than the
            resized image's. A crop may hold no object.
        flip: Probability of a horizontal flip.
        colour: Change of colour, if any.
    """

    def __init__(
        self,
        shorter: list[int],
        longest: int,
        before: list[int],
        crop: tuple[int, int],
        flip: float = 0.0,
        colour: A.ImageOnlyTransform | None = None,
    ) -> None:
        super().__init__(flip, colour)
        self.shorter, self.longest, self.before, self.crop = shorter, longest, before, crop

    def draw_window(self, size: Size, mask: Labels | None, boxes: NDArray[np.float32]) -> Window:
        """The whole image, or a part of it, at the drawn length."""
        window = self._draw_crop(size) if self.py_random.random() < 0.5 else whole(size, size)
        shorter = self.py_random.choice(self.shorter)
        return window._replace(size=shorter_side_size(window.size, shorter, self.longest))

    def _draw_crop(self, size: Size) -> Window:
        """A part of the resized image, in its resolution."""
        resized = shorter_side_size(size, self.py_random.choice(self.before), self.longest)
        height, width = (self.py_random.randint(*(min(side, limit) for limit in self.crop)) for side in resized)
        top, left = self.py_random.randint(0, resized[0] - height), self.py_random.randint(0, resized[1] - width)
        return crop_of_resized(size, resized, top, left, (height, width))


class ScaleJitterCrop(ResizeAndCrop):
    """Fits the image into a frame times a random factor and keeps a random window of at most the frame's size.

    Large-scale jitter of Ghiasi et al., arXiv 2012.07177.

    Args:
        frame: Height and width of the network input.
        scale: Range of the factor, drawn uniformly; (1, 1) only resizes.
        keep_ratio: Keep the aspect ratio; otherwise the image fills the frame.
        flip: Probability of a horizontal flip.
        colour: Change of colour, if any.
    """

    def __init__(
        self,
        frame: Size,
        scale: tuple[float, float],
        keep_ratio: bool,
        flip: float = 0.0,
        colour: A.ImageOnlyTransform | None = None,
    ) -> None:
        super().__init__(flip, colour)
        self.frame, self.scale, self.keep_ratio = frame, scale, keep_ratio

    def draw_window(self, size: Size, mask: Labels | None, boxes: NDArray[np.float32]) -> Window:
        """A window at a random place."""
        factor = self.py_random.uniform(*self.scale)
        bounds = (max(1, round(self.frame[0] * factor)), max(1, round(self.frame[1] * factor)))
        resized = fit_size(size, bounds, self.keep_ratio)
        crop = (min(self.frame[0], resized[0]), min(self.frame[1], resized[1]))
        top, left = self.py_random.randint(0, resized[0] - crop[0]), self.py_random.randint(0, resized[1] - crop[1])
        return crop_of_resized(size, resized, top, left, crop)


class RatioCrop(ResizeAndCrop):
    """MMSegmentation's RandomResize and RandomCrop: a random ratio of a reference scale, then a crop of mixed content.

    Args:
        scale: Reference (longer, shorter) side in pixels; the image is fitted into it, times the ratio.
        ratio: Range of the ratio, drawn uniformly.
        crop: Height and width of the crop.
        max_share: Largest share of one class among the labelled pixels of a crop (`cat_max_ratio`); a crop that
            reaches it, or of a single class, is drawn again. 1 takes every crop. The pixels are counted before the
            resize, which changes shares by no more than the rounding at the crop's border.
        ignore_index: Label that does not count. Default: the largest number of the mask's type.
        flip: Probability of a horizontal flip.
        colour: Change of colour, if any.
    """

    REDRAWS = 10
    """Crops that are refused before one is taken whatever it holds."""

    def __init__(
        self,
        scale: Size,
        ratio: tuple[float, float],
        crop: Size,
        max_share: float,
        ignore_index: int | None = None,
        flip: float = 0.0,
        colour: A.ImageOnlyTransform | None = None,
    ) -> None:
        super().__init__(flip, colour)
        self.scale, self.ratio, self.crop = scale, ratio, crop
        self.max_share, self.ignore_index = max_share, ignore_index

    def draw_window(self, size: Size, mask: Labels | None, boxes: NDArray[np.float32]) -> Window:
        """A window whose labels are mixed enough."""
        ratio = self.py_random.uniform(*self.ratio)
        resized = shorter_side_size(size, max(1, int(min(self.scale) * ratio)), max(1, int(max(self.scale) * ratio)))
        crop = (min(self.crop[0], resized[0]), min(self.crop[1], resized[1]))
        redraws = self.REDRAWS if mask is not None and self.max_share < 1 else 0
        for left_to_draw in range(redraws, -1, -1):
            top, left = self.py_random.randint(0, resized[0] - crop[0]), self.py_random.randint(0, resized[1] - crop[1])
            window = crop_of_resized(size, resized, top, left, crop)
            if left_to_draw == 0 or mask is None or self._is_mixed(mask, window):
                break
        return window

    def _is_mixed(self, mask: Labels, window: Window) -> bool:
        top, left = int(window.top), int(window.left)
        bottom, right = round(window.top + window.height), round(window.left + window.width)
        labels = mask[top : max(bottom, top + 1), left : max(right, left + 1)]
        largest = ignored_label(mask.dtype)
        counts = cv2.calcHist([labels], [0], None, [largest + 1], [0, largest + 1])
        counts[largest if self.ignore_index is None else self.ignore_index] = 0
        return bool(np.count_nonzero(counts) > 1 and counts.max() < self.max_share * counts.sum())
