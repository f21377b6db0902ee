"""The one image decoder and the one mask decoder of training, validation and prediction.

Pixels are the ones stored in the file: an EXIF orientation is not applied, because COCO's and ADE20K's annotations
refer to stored pixels. Pillow is used because it refuses truncated files, which OpenCV accepts with only a message.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from datamodules.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
"""File name endings (lower case) that a folder of images is searched for."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decodes an image file of any mode into RGB.

    Grey, palette, CMYK and 1-bit images are converted, an alpha channel is dropped. A 16-bit grey image keeps its high
    byte, which maps the full 16-bit range to 0..255 (Pillow alone would clip at 255, OpenCV would keep the low range).

    Args:
        path: Image file.

    Returns:
        (H, W, 3) pixels.

    Raises:
        DataError: The file is missing, truncated, too large or not an image.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I;16") or image.mode in ("I", "F"):
                grey = _high_byte(np.asarray(image), path)
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"image {path} does not exist; check the images folder or the file_name in the json") from None
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(
            f"image {path} cannot be decoded ({error}); replace it or take it out of the data set"
        ) from None


def _high_byte(pixels: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    """Scales integer grey levels 0..65535 to 0..255."""
    if pixels.dtype.kind == "f" or pixels.min() < 0 or pixels.max() > 65535:
        raise DataError(f"image {path} has {pixels.dtype} grey levels outside 0..65535; convert it to 8 or 16 bit")
    return (pixels.astype(np.uint32) >> 8).astype(np.uint8)


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Decodes a label image.

    Args:
        path: Single-channel 8-bit file: grey levels, or the indices of a palette image.

    Returns:
        (H, W) labels as stored.

    Raises:
        DataError: The file is missing, cannot be decoded or has several channels.
    """
    try:
        with Image.open(path) as mask:
            if mask.mode not in ("L", "P"):
                raise DataError(f"mask {path} has mode {mask.mode}, expected one 8-bit channel (L) or a palette (P)")
            return np.asarray(mask)
    except FileNotFoundError:
        raise DataError(
            f"mask {path} does not exist; every image needs a mask of the same name ending in .png"
        ) from None
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise DataError(f"mask {path} cannot be decoded ({error}); replace it") from None


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
        anchor = Path(path.anchor) if path.is_absolute() else Path()
        pattern = str(path.relative_to(anchor)) if path.is_absolute() else source
        found = [file for file in anchor.glob(pattern) if file.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise DataError(f"no image found at {source!r}; give an image, a folder of {IMAGE_SUFFIXES} files, or a glob")
    return sorted(found)
