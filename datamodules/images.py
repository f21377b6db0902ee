"""The one image decoder and the one mask decoder of training, validation and prediction.

Pixels are the ones stored in the file: an EXIF orientation is not applied, because COCO's and ADE20K's annotations
refer to stored pixels. JPEG files go to simplejpeg, the fastest decoder measured that refuses truncated files (OpenCV
accepts them with only a message). It runs libjpeg-turbo with the same settings as Pillow, so that both give the same
pixels; what it refuses, and every other format, goes to Pillow. Which of the two it is depends on the file alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from datamodules.errors import DataError
from datamodules.now_reading import reading

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
"""File name endings (lower case) that a folder of images is searched for."""

_JPEG = b"\xff\xd8\xff"
"""First bytes of a JPEG file."""

MAX_PIXELS = 178_956_970
"""Images with more pixels are refused before they are decoded: a few kB can unpack to gigabytes."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decodes an image file of any mode into RGB.

    Grey, palette, CMYK and 1-bit images are converted, an alpha channel is dropped. Of a grey image with more than 8
    bits, the 8 bits from the highest one in use are kept (Pillow alone would clip at 255, OpenCV would keep the low
    range): the brightest pixel gets 128..255, and a full 16-bit range keeps its high byte.

    Args:
        path: Image file.

    Returns:
        (H, W, 3) pixels.

    Raises:
        DataError: The file is missing, truncated, too large or not an image.
    """
    with reading(path):
        pixels = _read_jpeg(path)
        if pixels is not None:
            return pixels
        with _open("image", path, "check the images folder or the file_name in the json") as image:
            if image.mode.startswith("I;16") or image.mode in ("I", "F"):
                grey = _highest_bits(np.asarray(image), path)
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.asarray(image.convert("RGB"))


def _read_jpeg(path: Path) -> NDArray[np.uint8] | None:
    """Decodes a grey or colour JPEG without any fault into RGB; None for every other file, which Pillow then judges."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_JPEG))
            if start != _JPEG:
                return None
            content = start + file.read()
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in ("YCbCr", "Gray", "RGB") or height * width > MAX_PIXELS:
            return None
        return np.asarray(simplejpeg.decode_jpeg(content, "RGB"))
    except (OSError, ValueError):
        return None


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Decodes a label image.

    Args:
        path: Single-channel 8-bit file: grey levels, or the indices of a palette image.

    Returns:
        (H, W) labels as stored.

    Raises:
        DataError: The file is missing, cannot be decoded or has several channels.
    """
    with reading(path), _open("mask", path, "every image needs a mask of the same name ending in .png") as mask:
        if mask.mode not in ("L", "P"):
            raise DataError(f"mask {path} has mode {mask.mode}, expected one 8-bit channel (L) or a palette (P)")
        return np.asarray(mask)


@contextmanager
def _open(kind: str, path: Path, if_missing: str) -> Iterator[Image.Image]:
    """Opens a file; whatever goes wrong until the end of the with block becomes a DataError that names it."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{kind} {path} has {image.size} pixels, expected at most {MAX_PIXELS}; shrink it")
            yield image
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{kind} {path} does not exist; {if_missing}") from None
    except Exception as error:  # a corrupt header makes Pillow's decoders raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{kind} {path} cannot be decoded ({reason}); replace it or take it out") from None


def _highest_bits(pixels: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    """Scales integer grey levels by the power of two that brings the brightest one to 128..255."""
    if pixels.dtype.kind == "f" or pixels.min() < 0 or pixels.max() > 65535:
        raise DataError(
            f"image {path} has {pixels.dtype} grey levels {pixels.min()}..{pixels.max()}, expected integers 0..65535; "
            "convert it to 8 or 16 bit"
        )
    bits = int(pixels.max()).bit_length()
    return (pixels.astype(np.uint32) << 8 >> bits).astype(np.uint8)


def check_inside(folder: Path, path: Path) -> None:
    """Refuses a file that is reached through a link out of a folder.

    The folder itself may be a link, and links inside it are fine.

    Raises:
        DataError: Links followed, the file lies elsewhere.
    """
    target = path.resolve()
    if not target.is_relative_to(folder.resolve()):
        raise DataError(
            f"{path} is a link to {target}, expected a file inside {folder}; copy it there, or allow links with "
            "--data.follow_links true"
        )


def list_images(source: str) -> list[Path]:
    """Finds the images that a user names.

    Args:
        source: An image file, a folder (not searched recursively) or a glob pattern.

    Returns:
        Sorted paths, at least one.

    Raises:
        DataError: Nothing was found.
    """
    path = Path(source)
    if path.is_dir():
        found = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
    elif path.is_file():
        found = [path]
    else:
        matches = map(Path, glob(source, recursive=True))
        found = [file for file in matches if file.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise DataError(f"no image found at {source!r}; give an image, a folder of {IMAGE_SUFFIXES} files, or a glob")
    return sorted(found)
