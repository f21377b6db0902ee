"""Interpolation of a part of an image, where only the pixels that are kept are computed."""

from collections.abc import Callable
from math import ceil
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.mask_values import Labels, ignored_label

Size = tuple[int, int]
"""(height, width) in pixels."""


class Window(NamedTuple):
    """A rectangle of an image, and the size that it is resized to.

    Pixel i of the output lies at `top + (i + 0.5) * height / size[0] - 0.5` of the image (pixel centres at integers).

    Attributes:
        top: Upper edge in pixels of the image; edges, unlike centres, count from 0. May lie outside the image.
        left: Left edge.
        height: Extent in pixels of the image.
        width: Extent in pixels of the image.
        size: Size of the output.
        mirrored: Flip the output horizontally.
    """

    top: float
    left: float
    height: float
    width: float
    size: Size
    mirrored: bool = False

    def move(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Moves points (..., 2) xy from pixels of the image into pixels of the output; edges count from 0 in both."""
        scale = self.size[1] / self.width, self.size[0] / self.height
        moved = (points - (self.left, self.top)) * scale
        if self.mirrored:
            moved[..., 0] = self.size[1] - moved[..., 0]
        return moved

    def nearest(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The row of the image that is nearest to each row of the output, and the columns; some may lie outside."""
        height, width = self.size
        rows = np.floor(self.top + (np.arange(height) + 0.5) * (self.height / height)).astype(np.intp)
        columns = np.floor(self.left + (np.arange(width) + 0.5) * (self.width / width)).astype(np.intp)
        return rows, columns[::-1] if self.mirrored else columns


def whole(image: Size, size: Size) -> Window:
    """The window that resizes an image to a size."""
    return Window(0, 0, *image, size)


def crop_of_resized(image: Size, resized: Size, top: int, left: int, crop: Size) -> Window:
    """The window that does the same as a resize of the whole image followed by a crop.

    Args:
        image: Size of the image.
        resized: Size that the whole image is resized to.
        top: First row that is kept, in pixels of the resized image.
        left: First column that is kept.
        crop: Size of the part that is kept.
    """
    down, across = image[0] / resized[0], image[1] / resized[1]
    return Window(top * down, left * across, crop[0] * down, crop[1] * across, crop)


def resample_image(
    pixels: NDArray[np.uint8],
    window: Window,
    fill: tuple[int, int, int] = (0, 0, 0),
    recolour: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
) -> NDArray[np.uint8]:
    """Interpolates a window bilinearly, or by area when a side shrinks to less than half and none grows.

    Area interpolation is left out where a side grows because OpenCV's then moves edges. The result is that of resizing
    the whole image up to a shift of at most 0.03 pixels: see `_span`.

    Args:
        pixels: (H, W, 3) image.
        window: What to interpolate.
        fill: Colour of what lies outside the image.
        recolour: Change of colour that moves no pixel. It commutes with interpolation up to rounding and clipping, so
            it comes before or after, where there are fewer pixels.

    Returns:
        (h, w, 3).
    """
    (height, width), size, mirrored = pixels.shape[:2], window.size, window.mirrored
    down, across = window.height / size[0], window.width / size[1]
    interpolation = cv2.INTER_AREA if min(down, across) >= 1 and max(down, across) > 2 else cv2.INTER_LINEAR
    rows, columns = _span(height, window.top, down, size[0]), _span(width, window.left, across, size[1])
    if rows.kept < 1 or columns.kept < 1:
        return _filled(size, fill)
    part = _cut(pixels, rows, columns)
    recolour_first = part.shape[0] * part.shape[1] < rows.kept * columns.kept
    if recolour is not None and recolour_first:
        part = recolour(part)
    if window[:4] == (0, 0, height, width):
        part, mirrored = cv2.flip(part, 1) if mirrored else part, False
        part = part if size == (height, width) else cv2.resize(part, size[::-1], interpolation=interpolation)
    else:
        part = _scale(part, down, across, interpolation)
        part = part[rows.skip : rows.skip + rows.kept, columns.skip : columns.skip + columns.kept]
    if recolour is not None and not recolour_first:
        part = recolour(part)
    if (rows.kept, columns.kept) != size:
        output = _filled(size, fill)
        output[rows.first : rows.first + rows.kept, columns.first : columns.first + columns.kept] = part
        part = output
    return np.asarray(cv2.flip(part, 1) if mirrored else np.ascontiguousarray(part))


def _scale(part: NDArray[np.uint8], down: float, across: float, interpolation: int) -> NDArray[np.uint8]:
    """Resizes by factors that need not give whole sizes; the size is rounded.

    Where the rounded size is the old one, `cv2.resize` copies instead of interpolating: up to half a pixel wrong.
    """
    height, width = part.shape[:2]
    if (round(height / down), round(width / across)) != (height, width) or down == across == 1:
        return np.asarray(cv2.resize(part, None, fx=1 / across, fy=1 / down, interpolation=interpolation))
    source = np.array([[across, 0, across / 2 - 0.5], [0, down, down / 2 - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(part, source, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE))


def _filled(size: Size, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    output = np.empty((*size, 3), np.uint8)
    output[:] = colour
    return output


def resample_mask(mask: Labels, window: Window, fill: int | None = None) -> Labels:
    """Takes the nearest pixel of a window; labels are never mixed.

    Args:
        mask: (H, W) labels.
        window: As that of the image.
        fill: Label of what lies outside the image. Default: the largest number of the type, which is ignored.

    Returns:
        (h, w).
    """
    height, width = mask.shape
    fill = ignored_label(mask.dtype) if fill is None else fill
    rows, columns = window.nearest()
    labels = mask.take(rows, 0, mode="clip").take(columns, 1, mode="clip")
    labels[(rows < 0) | (rows >= height)] = fill
    outside = (columns < 0) | (columns >= width)
    if outside.any():
        labels[:, outside] = fill
    return labels


class _Span(NamedTuple):
    """How one axis of a window is interpolated.

    Attributes:
        start: First source pixel that is read.
        stop: Source pixel behind the last one. Pixels outside the image repeat its border.
        skip: Interpolated pixels in front of the first one that is kept.
        first: First output pixel with its centre in the image.
        kept: Output pixels with their centre in the image.
    """

    start: int
    stop: int
    skip: int
    first: int
    kept: int


_LEADS = 64
_SHIFT = 0.03


def _span(length: int, edge: float, step: float, size: int) -> _Span:
    """Plans one axis.

    `cv2.resize` interpolates from the edge of a whole pixel on, but a window begins anywhere. So some more pixels are
    interpolated in front of it, as many as bring the beginning to within `_SHIFT` of a whole pixel. Where 64 do not
    suffice, because the scale is close to 1, say, all from the image's own edge are.

    Args:
        length: Pixels of the image.
        edge: Where the window begins.
        step: Pixels of the image per pixel of the output.
        size: Pixels of the output.
    """
    first = max(0, ceil(-edge / step - 0.5))
    kept = min(size, ceil((length - edge) / step - 0.5)) - first
    begin = edge + first * step
    leads = ceil(0.5 / step) + np.arange(_LEADS)  # from the first of them on, the pixel to the left is read, too
    starts = begin - leads * step
    shifts = np.abs(starts - np.rint(starts))
    best = int((shifts <= _SHIFT).argmax() if (shifts <= _SHIFT).any() else shifts.argmin())
    skip, from_edge = int(leads[best]), max(0, round(begin / step))
    if abs(begin - from_edge * step) < 1e-6 and (from_edge < skip or shifts[best] > _SHIFT):
        skip = from_edge
    start = round(begin - skip * step)
    end = start + (skip + kept) * step
    stop = max(min(length, ceil(end) + 1), ceil(end - 0.4 * step))  # enough for OpenCV to round to skip + kept
    return _Span(start, stop, skip, first, kept)


def _cut(pixels: NDArray[np.uint8], rows: _Span, columns: _Span) -> NDArray[np.uint8]:
    """The source pixels of two spans."""
    height, width = pixels.shape[:2]
    above, below = max(0, -rows.start), max(0, rows.stop - height)
    before, behind = max(0, -columns.start), max(0, columns.stop - width)
    part = pixels[max(0, rows.start) : rows.stop, max(0, columns.start) : columns.stop]
    if above or below or before or behind:
        return np.asarray(cv2.copyMakeBorder(part, above, below, before, behind, cv2.BORDER_REPLICATE))
    return part
