"""A detector over an image that is larger than its input: window by window, in bounded memory.

The image stays as it is, 8 bits a channel. Windows are cut, seen and forgotten a batch at a time; of each, only its
boxes and run-length masks are kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention.base import check_choice
from tasks.batch import Batch
from tasks.detectors.base import Detections, Detector
from tasks.detectors.moved_masks import move_masks
from tasks.detectors.window_merging import Found, merge
from tasks.windows import Size, spans

BORDER = 8
"""Pixels of a window, next to a border that is not the image's, in which a box counts as cut by it."""


@dataclass(frozen=True)
class Windows:
    """How a detector looks at images that are larger than its input.

    An object that is at most as large as the overlap less 8 pixels is seen whole by some window, wherever it lies. So a
    box that ends within 8 pixels of a border inside the image is dropped where another window sees all of it and goes
    on beyond that border. Where none does, it comes last in the merge, and there its overlap is the share of its own
    area: half an object does not remain beside the whole one. Boxes of one window are never merged.

    Attributes:
        size: Height and width of the windows in pixels of the image as the pipeline resizes it (`test_scale`), the
            size in which the network has seen images in training; one number for a square. A smaller image is padded.
        overlap: Pixels that neighbours share down and across, at least the size of the largest objects; one number for
            both.
        at_once: Windows that the network sees in one batch.
        merge: Of boxes of one class from different windows that overlap, `nms` keeps the one that scores highest, `wbf`
            their mean, weighted by scores, with their mean score (weighted boxes fusion, arXiv 1910.13302), and the
            mask of the one that scores highest.
        merge_iou: IoU above which boxes of different windows are taken for the same object.
    """

    size: int | tuple[int, int] = 640
    overlap: int | tuple[int, int] = 128
    at_once: int = 4
    merge: Literal["nms", "wbf"] = "nms"
    merge_iou: float = 0.5

    def __post_init__(self) -> None:
        """Refuses what has no meaning."""
        check_choice("merge", self.merge, get_args(Literal["nms", "wbf"]))
        for side, overlap in zip(self.sides, self.overlaps, strict=True):
            if side < 1:
                raise ValueError(f"size of the windows is {side}, expected at least 1 pixel")
            if not 0 <= overlap < side:
                raise ValueError(f"overlap of the windows is {overlap}, expected 0..{side - 1}, less than their size")
        if self.at_once < 1:
            raise ValueError(f"at_once is {self.at_once}, expected at least 1 window")
        if not 0 < self.merge_iou < 1:
            raise ValueError(f"merge_iou is {self.merge_iou}, expected a number between 0 and 1, such as 0.5")

    @property
    def sides(self) -> Size:
        """Height and width."""
        return _pair(self.size)

    @property
    def overlaps(self) -> Size:
        """Pixels that neighbours share, down and across."""
        return _pair(self.overlap)

    def grid(self, image: Size) -> NDArray[np.int64]:
        """(W, 4) top, left, bottom and right of all windows of an image of a height and width, row by row."""
        down, across = (
            spans(length, side, side - overlap)
            for length, side, overlap in zip(image, self.sides, self.overlaps, strict=True)
        )
        return np.array([(rows.start, columns.start, rows.stop, columns.stop) for rows in down for columns in across])


def _pair(value: int | tuple[int, int]) -> Size:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class WindowedDetection:
    """Detects in the windows of images, and puts together what was found there; for any detector.

    Args:
        windows: How images are covered.

    Attributes:
        progress: Is told how many windows of an image are done, and how many there are.
    """

    def __init__(self, windows: Windows) -> None:
        self.windows = windows
        self.progress: Callable[[int, int], None] | None = None

    def __call__(self, detector: Detector, batch: Batch) -> Detections:
        """Detections of every image, in pixels of the original one.

        Args:
            detector: In evaluation mode.
            batch: As `datamodules.COCO` has it.
        """
        return [
            self._of_image(detector, image[:, :height, :width], tuple(target["original_size"].tolist()))
            for image, (height, width), target in zip(
                batch["image"], batch["size"].tolist(), batch["targets"], strict=True
            )
        ]

    def _of_image(self, detector: Detector, image: Tensor, original: Size) -> dict[str, Any]:
        """Detections of an image (3, H, W) uint8 that was `original` high and wide before it was resized."""
        grid = self.windows.grid((image.shape[1], image.shape[2]))
        scale = np.tile(np.divide(original, image.shape[1:]), 2)  # 1 where the image keeps its size
        places = grid * scale
        whole = np.rint(places).astype(np.int64)
        parts: list[Found] = []
        for start in range(0, len(grid), self.windows.at_once):
            stop = min(start + self.windows.at_once, len(grid))
            found = detector(self._cut(image, grid[start:stop], whole[start:stop]))
            for number, detections in enumerate(found, start):
                parts.append(_placed(detections, number, places, whole[number], original, BORDER * scale[:2]))
            if self.progress is not None:
                self.progress(stop, len(grid))
        merged = merge(Found.together(parts), self.windows.merge_iou, fuse=self.windows.merge == "wbf")
        detections = {
            "boxes": torch.from_numpy(merged.boxes).to(image.device),
            "scores": torch.from_numpy(merged.scores).to(image.device),
            "labels": torch.from_numpy(merged.labels).to(image.device),
        }
        return detections | ({"masks": merged.masks} if detector.with_masks else {})

    def _cut(self, image: Tensor, grid: NDArray[np.int64], whole: NDArray[np.int64]) -> Batch:
        """A batch of windows, padded right and bottom where the image is smaller than they are."""
        cut = image.new_zeros(len(grid), 3, *self.windows.sides)
        for pixels, (top, left, bottom, right) in zip(cut, grid.tolist(), strict=True):
            pixels[:, : bottom - top, : right - left] = image[:, top:bottom, left:right]
        sizes = torch.from_numpy(whole[:, 2:] - whole[:, :2])
        return {
            "image": cut,
            "size": torch.from_numpy(grid[:, 2:] - grid[:, :2]).to(image.device),
            "targets": [{"original_size": size} for size in sizes],
        }


def _placed(
    detections: dict[str, Any],
    number: int,
    places: NDArray[np.float64],
    whole: NDArray[np.int64],
    original: Size,
    border: NDArray[np.float64],
) -> Found:
    """What one window has found, in the pixels of the original image; what another window sees better is left out.

    Args:
        detections: Of the detector, in pixels of the window's part of the original image.
        number: Number of the window.
        places: (W, 4) top, left, bottom and right of all windows in the original image.
        whole: (4,) those of this one in whole pixels, by which the detector has scaled.
        original: Height and width of the original image.
        border: Down and across, pixels of the original image that are near a border.
    """
    boxes, scores, labels = (detections[name].cpu().numpy() for name in ("boxes", "scores", "labels"))
    top, left, bottom, right = places[number]
    stretch = (right - left) / (whole[3] - whole[1]), (bottom - top) / (whole[2] - whole[0])
    moved = (boxes * np.tile(stretch, 2) + np.tile((left, top), 2)).astype(np.float32)
    cut, better = _cut_by_border(moved, number, places[:, [1, 0, 3, 2]], original[::-1], border[::-1])
    kept = np.flatnonzero(~better)
    masks = [detections["masks"][place] for place in kept.tolist()] if "masks" in detections else []
    in_image = move_masks(masks, whole[:2].tolist(), original)
    return Found(moved[kept], scores[kept], labels[kept], np.full(len(kept), number), cut[kept], in_image)


def _cut_by_border(
    boxes: NDArray[np.float32], number: int, places: NDArray[np.float64], limits: Size, border: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which boxes (N, 4) end at a border inside the image, and which of them another window sees with what is beyond.

    Args:
        boxes: xyxy in the original image, of one window.
        number: The window.
        places: (W, 4) xyxy of all windows.
        limits: Width and height of the original image.
        border: Across and down, pixels that are near.
    """
    own, near, low, high = places[number], border.astype(np.float64), slice(0, 2), slice(2, 4)
    inner_low, inner_high = places[:, low] > 0, places[:, high] < np.asarray(limits)  # (W, 2)
    cut_low = (boxes[:, low] < own[low] + near) & inner_low[number]  # (N, 2)
    cut_high = (boxes[:, high] > own[high] - near) & inner_high[number]
    cut = (cut_low | cut_high).any(axis=1)
    # At the side where a box is cut the other window has to reach at least as far, at the other sides to see it whole.
    reach_low = np.where(cut_low[:, None], own[low], boxes[:, None, low] - near * inner_low)  # (N, W, 2)
    reach_high = np.where(cut_high[:, None], own[high], boxes[:, None, high] + near * inner_high)
    sees = (places[:, low] <= reach_low).all(axis=2) & (places[:, high] >= reach_high).all(axis=2)
    further = (cut_low[:, None] & (places[:, low] < own[low])) | (cut_high[:, None] & (places[:, high] > own[high]))
    return cut, (sees & further.any(axis=2)).any(axis=1)
