"""From an image of any size to logits of the same size: at once, or by sliding windows; and to labels from there."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.room import zeros
from tasks.segmentors.upsampling import first_of_largest, resized_bands
from tasks.windows import Size, spans

Logits = Callable[[Tensor], Tensor]
"""Maps images (B, 3, H, W) to logits (B, K, H, W)."""
_ROWS = 64
"""Rows of averaged logits that are handed on at a time."""


@dataclass(frozen=True)
class Reading:
    """How logits become labels at the size of the original image.

    Attributes:
        align_corners: Where the pixels of a resized map lie, as in `F.interpolate`; heads of MMSegmentation say it.
        threshold: Of two classes, probability above which a pixel is of the second one. Default: the more probable one.
        see: Gets the probabilities (n, W, K) of an image, n rows at a time, from the top to the bottom.
    """

    align_corners: bool = False
    threshold: float | None = None
    see: Callable[[Tensor], None] | None = None


class Inference(ABC):
    """How a segmentor covers an image.

    Args:
        flip: Look at the mirrored image, too, and average the probabilities, as "ms + flip" scores do.

    Attributes:
        progress: Is told how many windows of an image are done, and how many there are.
    """

    def __init__(self, flip: bool = False) -> None:
        self.flip = flip
        self.progress: Callable[[int, int], None] | None = None

    @abstractmethod
    def rows(self, image: Tensor, logits: Logits) -> Iterator[Tensor]:
        """Logits (B, K, n, W) of images (B, 3, H, W), from the top to the bottom, some rows at a time."""

    @abstractmethod
    def windows(self, height: int, width: int) -> list[tuple[slice, slice]]:
        """Rows and columns of an image that the network sees at once."""

    def __call__(self, image: Tensor, logits: Logits) -> Tensor:
        """All logits (B, K, H, W) of images (B, 3, H, W)."""
        return torch.cat([*self.rows(image, logits)], dim=2)

    def labels(self, views: Sequence[Tensor], logits: Logits, size: Size, reading: Reading | None = None) -> Tensor:
        """The class of every original pixel.

        Args:
            views: An image in one or several sizes, (1, 3, h, w) each.
            logits: The network.
            size: Height H and width W of the original image.
            reading: Default: the most probable class; of equal ones the first wins.

        Returns:
            (H, W) uint8, or int16 where there are more than 254 classes.
        """
        reading = reading or Reading()
        averaged = len(views) > 1 or self.flip
        probable = averaged or reading.threshold is not None or reading.see is not None
        if averaged:
            bands: Iterable[Tensor] = self.probabilities(views, logits, size, reading.align_corners).split(_ROWS)
        else:
            bands = self._bands(views[0], logits, size, reading.align_corners)
        labels, row = torch.empty(0), 0
        for band in bands:
            band = band.softmax(dim=-1) if probable and not averaged else band
            if reading.see is not None:
                reading.see(band)
            if not row:
                labels = torch.empty(size, dtype=smallest_type(band.shape[-1]), device=band.device)
            found = first_of_largest(band) if reading.threshold is None else band[..., 1] > reading.threshold
            labels[row : row + len(band)] = found
            row += len(band)
        return labels

    def probabilities(self, views: Sequence[Tensor], logits: Logits, size: Size, align_corners: bool = False) -> Tensor:
        """Softmax of the logits at original size, averaged over an image's views and their mirror images.

        All (H, W, K) of them, for each view goes over the whole image; of a large one they lie in a file.
        """
        total: Tensor | None = None
        for view in views:
            for mirrored in (False, True) if self.flip else (False,):
                row = 0
                for band in self._bands(view.flip(-1) if mirrored else view, logits, size, align_corners):
                    if total is None:
                        total = zeros((*size, band.shape[-1]), band)
                    found = band.softmax(dim=-1)
                    total[row : row + len(band)] += found.flip(1) if mirrored else found
                    row += len(band)
        assert total is not None
        return total.div_(len(views) * (1 + self.flip))

    def _bands(self, image: Tensor, logits: Logits, size: Size, align_corners: bool) -> Iterator[Tensor]:
        height, width = image.shape[-2:]
        return resized_bands(self.rows(image, logits), (height, width), size, align_corners)


def smallest_type(num_classes: int) -> torch.dtype:
    """The type of a map of labels 0..K-1."""
    return torch.uint8 if num_classes <= 254 else torch.int16


class WholeInference(Inference):
    """The image at once.

    Args:
        flip: Look at the mirrored image, too, and average the probabilities, as "ms + flip" scores do.
    """

    def rows(self, image: Tensor, logits: Logits) -> Iterator[Tensor]:
        """Logits (B, K, H, W) of images (B, 3, H, W), in one piece."""
        yield logits(image)

    def windows(self, height: int, width: int) -> list[tuple[slice, slice]]:
        """All of them."""
        return [(slice(0, height), slice(0, width))]


class SlideInference(Inference):
    """Overlapping windows, whose logits are averaged, as in MMSegmentation, or blended.

    The last window of a row or column is moved inwards so that it stays inside the image; an image smaller than the
    window is taken as it is. Logits exist for one row of windows at a time: `window` x W x K numbers, whatever the
    height of the image.

    A window sees least of what surrounds a pixel at its borders. With `blend` its logits count least there: their
    weight falls linearly along both sides from the middle to the border, where it is half a pixel's step above 0.

    Args:
        window: Height and width of the window in pixels of the resized image; one number for a square.
        stride: Distance between windows in pixels down and across, at most the window's sides; one number for both.
        windows_at_once: Windows of a row that the network sees in one batch.
        flip: Look at the mirrored image, too, and average the probabilities, as "ms + flip" scores do.
        blend: Weight logits by the distance to the window's border, instead of evenly.
    """

    def __init__(
        self,
        window: int | tuple[int, int] = 512,
        stride: int | tuple[int, int] = 341,
        windows_at_once: int = 4,
        flip: bool = False,
        blend: bool = False,
    ) -> None:
        super().__init__(flip)
        self.blend = blend
        self.window, self.stride = ((side, side) if isinstance(side, int) else side for side in (window, stride))
        for step, side in zip(self.stride, self.window, strict=True):
            if not 1 <= step <= side:
                raise ValueError(f"stride is {step}, expected 1..{side}, the window's side: no pixel may be left out")
        if windows_at_once < 1:
            raise ValueError(f"windows_at_once is {windows_at_once}, expected at least 1")
        self.windows_at_once = windows_at_once

    def rows(self, image: Tensor, logits: Logits) -> Iterator[Tensor]:
        """Logits (B, K, n, W) of images (B, 3, H, W): the rows that no further window covers."""
        height, width = image.shape[-2:]
        down, across = self.spans(height, 0), self.spans(width, 1)
        by_row, by_column = (
            self._cover(windows, side).to(image.device) for windows, side in ((down, height), (across, width))
        )
        total: Tensor | None = None
        for place, span in enumerate(down):
            for columns, found in self._row(image[..., span, :], across, logits):
                if total is None:
                    total = zeros((*found.shape[:2], span.stop - span.start, width), found)
                total[..., columns] += found * self._weights(span, columns, found) if self.blend else found
                del found
            assert total is not None
            if self.progress is not None:
                self.progress((place + 1) * len(across), len(down) * len(across))
            following = down[place + 1].start if place + 1 < len(down) else height
            done = following - span.start  # rows that no further window covers
            for start in range(0, done, _ROWS):
                stop = min(start + _ROWS, done)
                # Windows that see each pixel, or the sum of their weights, which is a product as the weights are.
                windows = by_row[span.start + start : span.start + stop, None] * by_column
                yield total[..., start:stop, :] / windows
            rest = total.shape[2] - done
            for start in range(0, rest, done):  # rows move up, over rows that have moved before
                stop = min(start + done, rest)
                total[..., start:stop, :] = total[..., start + done : stop + done, :]
            total[..., rest:, :] = 0

    def _row(self, image: Tensor, across: list[slice], logits: Logits) -> Iterator[tuple[slice, Tensor]]:
        """The windows of a row of windows, and their logits."""
        for start in range(0, len(across), self.windows_at_once):
            spans = across[start : start + self.windows_at_once]
            found = logits(torch.cat([image[..., columns] for columns in spans]))
            yield from zip(spans, found.chunk(len(spans)), strict=True)
            del found  # before the next ones are made

    def windows(self, height: int, width: int) -> list[tuple[slice, slice]]:
        """Row by row."""
        return [(down, across) for down in self.spans(height, 0) for across in self.spans(width, 1)]

    def spans(self, length: int, axis: int) -> list[slice]:
        """Windows along one side of the image, 0 down and 1 across."""
        return spans(length, self.window[axis], self.stride[axis])

    def _cover(self, windows: list[slice], length: int) -> Tensor:
        """How many windows see each place along a side, or the sum of their weights."""
        count = torch.zeros(length)
        for span in windows:
            count[span] += _falling(span.stop - span.start) if self.blend else 1
        return count

    def _weights(self, rows: slice, columns: slice, logits: Tensor) -> Tensor:
        """The weight (h, w) of each place of a window."""
        down, across = (_falling(side.stop - side.start).to(logits) for side in (rows, columns))
        return down[:, None] * across


def _falling(length: int) -> Tensor:
    """Weights along a side: 1 in the middle, falling linearly to both borders."""
    distance = torch.arange(length) + 0.5
    return torch.minimum(distance, length - distance) / (length / 2)
