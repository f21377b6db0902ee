"""SSD's augmentation: zoom out, then crop around objects."""

from typing import Any

import albumentations as A
import numpy as np
from numpy.typing import NDArray

from datamodules.geometry import ResizeAndCrop
from datamodules.mask_values import Labels
from datamodules.resampling import Size, Window


class ZoomAndCrop(ResizeAndCrop):
    """SSD's zoom-out and crop: sometimes a larger canvas, then a part of it that overlaps an object well enough.

    Liu et al., arXiv 1512.02325; numbers and order of draws as in torchvision's RandomZoomOut and RandomIoUCrop. Boxes
    with their centre outside the crop are dropped. The output is stretched to the frame.

    Args:
        frame: Height and width of the network input.
        zoom_out: Probability of the canvas.
        largest: Largest side of the canvas as a multiple of the image's.
        flip: Probability of a horizontal flip.
        colour: Change of colour, if any.
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
        flip: float = 0.0,
        colour: A.ImageOnlyTransform | None = None,
        fill: tuple[int, int, int] = (124, 116, 104),
    ) -> None:
        super().__init__(flip, colour, fill)
        self.frame, self.zoom_out, self.largest = frame, zoom_out, largest

    def draw_window(self, size: Size, mask: Labels | None, boxes: NDArray[np.float32]) -> Window:
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
