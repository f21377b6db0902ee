"""The one image decoder and the one mask decoder of training, validation and prediction.

Pixels are the ones stored in the file unless the annotations or the user say otherwise (`orientation.py`). JPEG files
go to simplejpeg, the fastest decoder measured that refuses truncated files (OpenCV accepts them with only a message).
It runs libjpeg-turbo with the same settings as Pillow, so that both give the same pixels; what it refuses, and every
other format, goes to Pillow. Which of the two it is depends on the file alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from datamodules.errors import DataError
from datamodules.image_files import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    Listing,
    check_inside,
    is_image,
    is_mask,
    list_folder,
    list_images,
    why_missing,
)
from datamodules.now_reading import reading
from datamodules.orientation import Orientation, Size, chosen_turn, exif_orientation, turn
from datamodules.room import LARGE, Room, in_memory

_JPEG = b"\xff\xd8\xff"
"""First bytes of a JPEG file."""

MAX_PIXELS = 178_956_970
"""Images with more pixels are refused before they are decoded: a few kB can unpack to gigabytes."""


class ReadImage(Protocol):
    """`read_image` with the options of a data set."""

    def __call__(self, path: Path, *, size: Size | None = None, room: Room = in_memory) -> NDArray[np.uint8]:
        """Decodes the file, whose annotations say a height and width, into that room."""


_GREY_BITS = 16
_ROWS = 256
"""Rows of a large picture that are converted at a time."""
_TIFF_BITS_PER_SAMPLE = 258


def read_image(
    path: Path,
    orientation: Orientation = "stored",
    size: Size | None = None,
    max_pixels: int = MAX_PIXELS,
    largest_grey: int | None = None,
    room: Room = in_memory,
) -> NDArray[np.uint8]:
    """Decodes an image file of any mode into RGB.

    Grey, palette, CMYK and 1-bit images are converted, an alpha channel is dropped. Grey levels of more than 8 bits
    are scaled by the range of the file's format, never by what an image holds, so that equal levels stay equal over a
    data set: of 16 bits the high byte is kept. `largest_grey` gives the range where only a part of it is used.

    Args:
        path: Image file.
        orientation: What to do with a picture that EXIF wants turned, where `size` does not tell.
        size: Height and width that the annotations of the image say. Where they are those of the turned picture only,
            it is turned; where they fit neither, the pixels are as stored.
        max_pixels: Larger images are refused.
        largest_grey: Grey level of images of more than 8 bits that becomes 255, as do those above. Default: the
            largest of the format, 65535 for 16 bits.
        room: Makes room for the pixels.

    Returns:
        (H, W, 3) pixels.

    Raises:
        DataError: The file is missing, truncated, too large, not an image, or turned and `orientation` is `refuse`.
    """
    with reading(path):
        pixels = _read_jpeg(path, max_pixels, room)
        if pixels is None:
            pixels = _read_any(path, max_pixels, largest_grey, room)
        stored = (pixels.shape[0], pixels.shape[1])
        if orientation == "stored" and size in (None, stored):
            return pixels
        try:
            number = chosen_turn(exif_orientation(path), stored, size, orientation)
        except DataError as error:
            raise DataError(f"image {path} {error}") from None
        return _moved(turn(pixels, number), room)


def _moved(pixels: NDArray[np.uint8], room: Room) -> NDArray[np.uint8]:
    """Pixels that are in memory, in the room that they are wanted in."""
    if room is in_memory:
        return pixels
    moved = room(pixels.shape)
    moved[...] = pixels
    return moved


def _read_jpeg(path: Path, max_pixels: int = MAX_PIXELS, room: Room = in_memory) -> NDArray[np.uint8] | None:
    """Decodes a grey or colour JPEG without any fault into RGB; None for every other file, which Pillow then judges."""
    try:
        with path.open("rb") as file:
            if file.read(len(_JPEG)) != _JPEG:
                return None
            file.seek(0)
            content = file.read()
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in ("YCbCr", "Gray", "RGB") or height * width > max_pixels:
            return None
        return np.asarray(simplejpeg.decode_jpeg(content, "RGB", buffer=room((height, width, 3))))
    except (OSError, ValueError):
        return None


def _read_any(path: Path, max_pixels: int, largest_grey: int | None, room: Room) -> NDArray[np.uint8]:
    with _open("image", path, "check the images folder or the file_name in the json", max_pixels) as image:
        return pixels_of(image, path, largest_grey, room)


def pixels_of(
    image: Image.Image, name: object, largest_grey: int | None = None, room: Room = in_memory
) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) of a picture of any mode, as `read_image` gives them.

    Args:
        image: The picture.
        name: What messages call it.
        largest_grey: Grey level of images of more than 8 bits that becomes 255.
        room: Makes room for the pixels.

    Raises:
        DataError: Its grey levels are no integers 0..65535.
    """
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _moved(grey_as_rgb(scaled(np.asarray(image), name, largest_grey or 2 ** _bits(image) - 1)), room)
    if image.width * image.height <= LARGE:
        return np.asarray(image.convert("RGB"))
    pixels = room((image.height, image.width, 3))
    for top in range(0, image.height, _ROWS):  # Pillow's own form of all of it is enough beside them
        rows = slice(top, min(top + _ROWS, image.height))
        pixels[rows] = np.asarray(image.crop((0, rows.start, image.width, rows.stop)).convert("RGB"))
    return pixels


def grey_as_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey levels (H, W) as pixels (H, W, 3)."""
    return np.repeat(grey[:, :, None], 3, axis=2)


def read_mask(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Decodes a label image.

    Args:
        path: Single-channel file of 8 or 16 bits: grey levels, or the indices of a palette image.
        max_pixels: Larger masks are refused.

    Returns:
        (H, W) labels as stored, uint8 or uint16.

    Raises:
        DataError: The file is missing, cannot be decoded or has several channels.
    """
    with (
        reading(path),
        _open("mask", path, "every image needs a mask of the same name", max_pixels) as mask,
    ):
        if mask.mode in ("L", "P"):
            return np.asarray(mask)
        labels = np.asarray(mask) if mask.mode.startswith("I") else None
        if labels is None or labels.min() < 0 or labels.max() > np.iinfo(np.uint16).max:
            raise DataError(
                f"mask {path} has mode {mask.mode}, expected one channel of 8 bits (L) or 16 bits (I;16), or a palette "
                "(P)"
            )
        return labels.astype(np.uint16)


def allow_pixels(max_pixels: int) -> None:
    """Takes Pillow's own limit, which is ours by default, away where more is allowed."""
    if max_pixels > MAX_PIXELS:
        Image.MAX_IMAGE_PIXELS = None


@contextmanager
def _open(kind: str, path: Path, if_missing: str, max_pixels: int) -> Iterator[Image.Image]:
    """Opens a file; whatever goes wrong until the end of the with block becomes a DataError that names it."""
    allow_pixels(max_pixels)
    try:
        with Image.open(path) as image:
            if image.width * image.height > max_pixels:
                raise DataError(
                    f"{kind} {path} has {image.size} pixels, expected at most {max_pixels}; shrink it, or allow more "
                    "with --data.max_pixels"
                )
            yield image
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{kind} {path} does not exist; {why_missing(path) or if_missing}") from None
    except Exception as error:  # a corrupt header makes Pillow's decoders raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{kind} {path} cannot be decoded ({reason}); replace it or take it out") from None


def _bits(image: Image.Image) -> int:
    """Bits of a grey level: TIFF has files of 12; Pillow spreads those of all other formats over 16."""
    return int(getattr(image, "tag_v2", {}).get(_TIFF_BITS_PER_SAMPLE, (_GREY_BITS,))[0]) % 32 or _GREY_BITS


def scaled(pixels: NDArray[Any], name: object, largest: int) -> NDArray[np.uint8]:
    """Grey levels 0..largest as 0..255, each step of equal width.

    Raises:
        DataError: They are no integers 0..65535.
    """
    if pixels.dtype.kind == "f" or pixels.min() < 0 or pixels.max() > 65535:
        raise DataError(
            f"image {name} has {pixels.dtype} grey levels {pixels.min()}..{pixels.max()}, expected integers 0..65535; "
            "convert it to 8 or 16 bit"
        )
    return (pixels.astype(np.uint32) * 256 // (largest + 1)).clip(max=255).astype(np.uint8)


__all__ = [
    "IMAGE_SUFFIXES",
    "MASK_SUFFIXES",
    "MAX_PIXELS",
    "Listing",
    "Orientation",
    "ReadImage",
    "check_inside",
    "exif_orientation",
    "is_image",
    "is_mask",
    "list_folder",
    "list_images",
    "read_image",
    "read_mask",
    "why_missing",
]
