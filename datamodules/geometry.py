"""Transforms that resize an image and keep a part of it: images, boxes and masks follow one random window."""

from abc import abstractmethod
from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.resampling import Size, Window, crop_of_resized, resample_image, resample_mask, whole


class ResizeAndCrop(A.DualTransform):
    """Base of transforms that resize an image and keep a window of it; boxes and masks follow.

    A subclass draws the window. Only the pixels that are kept are interpolated.

    Args:
        fill: RGB colour of what lies outside the image.
    """

    def __init__(self, fill: tuple[int, int, int] = (0, 0, 0)) -> None:
        super().__init__(p=1.0)
        self.fill = fill

    @abstractmethod
    def draw_window(self, size: Size, mask: NDArray[np.uint8] | None, boxes: NDArray[np.float32]) -> Window:
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
        return {"window": self.draw_window((height, width), data.get("mask"), boxes)}

    def apply(self, img: NDArray[np.uint8], window: Window, **params: Any) -> NDArray[np.uint8]:
        """Resizes and crops the image."""
        return resample_image(img, window, self.fill)

    def apply_to_mask(self, mask: NDArray[np.uint8], window: Window, **params: Any) -> NDArray[np.uint8]:
        """Resizes and crops the mask without inventing labels."""
        return resample_mask(mask, window)

    def apply_to_bboxes(self, bboxes: NDArray[np.float32], window: Window, **params: Any) -> NDArray[np.float32]:
        """Moves boxes (N, 4+) in fractions of the image into fractions of the window; albumentations clips them."""
        height, width = params["shape"][:2]
        moved = bboxes.copy()
        moved[:, [0, 2]] = (bboxes[:, [0, 2]] * width - window.left) / window.width
        moved[:, [1, 3]] = (bboxes[:, [1, 3]] * height - window.top) / window.height
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
    """

    def __init__(self, shorter: list[int], longest: int) -> None:
        super().__init__()
        self.shorter, self.longest = shorter, longest

    def draw_window(self, size: Size, mask: NDArray[np.uint8] | None, boxes: NDArray[np.float32]) -> Window:
        """The whole image at the drawn length."""
        return whole(size, shorter_side_size(size, self.py_random.choice(self.shorter), self.longest))


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

    def draw_window(self, size: Size, mask: NDArray[np.uint8] | None, boxes: NDArray[np.float32]) -> Window:
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
        ignore_index: Label that does not count.
    """

    REDRAWS = 10
    """Crops that are refused before one is taken whatever it holds."""

    def __init__(
        self, scale: Size, ratio: tuple[float, float], crop: Size, max_share: float, ignore_index: int
    ) -> None:
        super().__init__()
        self.scale, self.ratio, self.crop = scale, ratio, crop
        self.max_share, self.ignore_index = max_share, ignore_index

    def draw_window(self, size: Size, mask: NDArray[np.uint8] | None, boxes: NDArray[np.float32]) -> Window:
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

    def _is_mixed(self, mask: NDArray[np.uint8], window: Window) -> bool:
        top, left = int(window.top), int(window.left)
        bottom, right = round(window.top + window.height), round(window.left + window.width)
        labels = mask[top : max(bottom, top + 1), left : max(right, left + 1)]
        counts = cv2.calcHist([labels], [0], None, [256], [0, 256])
        counts[self.ignore_index] = 0
        return bool(np.count_nonzero(counts) > 1 and counts.max() < self.max_share * counts.sum())


class ZoomAndCrop(ResizeAndCrop):
    """SSD's zoom-out and crop: sometimes a larger canvas, then a part of it that overlaps an object well enough.

    Liu et al., arXiv 1512.02325; numbers and order of draws as in torchvision's RandomZoomOut and RandomIoUCrop. Boxes
    with their centre outside the crop are dropped. The output is stretched to the frame.

    Args:
        frame: Height and width of the network input.
        zoom_out: Probability of the canvas.
        largest: Largest side of the canvas as a multiple of the image's.
        fill: RGB colour of the canvas.
    """

    OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, None)
    """IoU of crop and object that is asked for; None keeps the whole canvas. One is drawn uniformly."""

    TRIALS = 40
    """Crops that are tried before another overlap is drawn."""

    def __init__(
        self,
        frame: Size,
        zoom_out: float,
        largest: float = 4.0,
        fill: tuple[int, int, int] = (124, 116, 104),
    ) -> None:
        super().__init__(fill)
        self.frame, self.zoom_out, self.largest = frame, zoom_out, largest

    def draw_window(self, size: Size, mask: NDArray[np.uint8] | None, boxes: NDArray[np.float32]) -> Window:
        """A part of the canvas."""
        height, width, top, left = *size, 0, 0
        if self.py_random.random() < self.zoom_out:
            factor = self.py_random.uniform(1.0, self.largest)
            height, width = int(size[0] * factor), int(size[1] * factor)
            top, left = self.py_random.randint(0, height - size[0]), self.py_random.randint(0, width - size[1])
        placed = boxes + np.array([left, top, left, top], np.float32)
        crop = self._draw_crop((height, width), placed) if len(boxes) else None
        y, x, crop_height, crop_width = crop or (0, 0, height, width)
        return Window(y - top, x - left, crop_height, crop_width, self.frame)

    def _draw_crop(self, canvas: Size, boxes: NDArray[np.float32]) -> tuple[int, int, int, int] | None:
        """Top, left, height and width of a crop that some box allows, or None for the whole canvas."""
        while (overlap := self.py_random.choice(self.OVERLAPS)) is not None:
            draws = self.random_generator.random((4, self.TRIALS))
            heights, widths = (canvas[axis] * (0.3 + 0.7 * draws[axis]) // 1 for axis in (0, 1))
            tops, lefts = (canvas[0] - heights) * draws[2] // 1, (canvas[1] - widths) * draws[3] // 1
            shaped = (heights >= 1) & (widths >= 1) & (widths <= 2 * heights) & (heights <= 2 * widths)
            crops = np.stack([lefts, tops, lefts + widths, tops + heights], axis=1)[shaped]
            inside = _centres_inside(boxes, crops)
            allowed = np.flatnonzero((inside & (_overlaps(boxes, crops) >= overlap)).any(axis=1))
            if len(allowed):
                x, y, right, bottom = (int(edge) for edge in crops[allowed[0]])
                return y, x, bottom - y, right - x
        return None

    def apply_to_bboxes(self, bboxes: NDArray[np.float32], window: Window, **params: Any) -> NDArray[np.float32]:
        """Moves boxes and drops those with their centre outside the crop."""
        moved = super().apply_to_bboxes(bboxes, window, **params)
        unit = np.array([[0, 0, 1, 1]], np.float64)
        return moved[_centres_inside(moved[:, :4], unit)[0]]


def _centres_inside(boxes: NDArray[np.float32], crops: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether the centre of box n lies in crop m; boxes (N, 4) and crops (M, 4) xyxy -> (M, N)."""
    centres = (boxes[:, :2] + boxes[:, 2:4]) / 2
    return np.asarray(((crops[:, None, :2] < centres) & (centres < crops[:, None, 2:])).all(axis=-1))


def _overlaps(boxes: NDArray[np.float32], crops: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of boxes (N, 4) and crops (M, 4) xyxy -> (M, N)."""
    shared = np.minimum(crops[:, None, 2:], boxes[:, 2:]) - np.maximum(crops[:, None, :2], boxes[:, :2])
    intersection = shared.clip(min=0).prod(axis=-1)
    areas = [(edges[:, 2:] - edges[:, :2]).prod(axis=-1) for edges in (crops, boxes)]
    return intersection / (areas[0][:, None] + areas[1] - intersection)
