"""EXIF orientations: how a picture is to be turned before it is shown.

Annotations may have been drawn on the pixels as they are stored, as COCO's were, or on the turned picture, as browsers
show it. Where a quarter turn makes the sizes differ, the size that stands in the annotations tells which; elsewhere the
user says it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from datamodules.errors import DataError

Orientation = Literal["stored", "apply", "refuse"]
"""What to do with a picture that EXIF wants turned, where the size of its annotations does not tell: leave the pixels
as stored, turn them, or stop with an error."""

Size = tuple[int, int]
Pixels = NDArray[np.uint8]

_QUARTER_TURNS = (5, 6, 7, 8)
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}
_START, _APP1, _SCAN = b"\xff\xd8\xff", 0xE1, 0xDA
_EXIF = b"Exif\0\0"
_HEAD = 1 << 16


def exif_orientation(path: Path) -> int:
    """The EXIF orientation of an image file, 1..8; reads only the header.

    1 is a picture that is not turned; so are one without such an entry, with a damaged one, and a file that is none.
    That of a TIFF file is part of its format, and every decoder applies it: it counts as 1.

    Args:
        path: Image file.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            head = stream.read(_HEAD)
        number = _of_jpeg(head) if head.startswith(_START) else None
        if number is None:
            with Image.open(path) as image:
                return orientation_of(image)
    except Exception:  # Pillow raises almost anything; whether the file can be decoded is not asked here
        return 1
    return int(number) if number in _TURNS else 1


def orientation_of(image: Image.Image) -> int:
    """The same of an opened picture."""
    # Not the method of PNG files, which decodes all of the picture to look behind it.
    known = Image.Image.getexif(image) if image.format != "TIFF" else {}
    number = known.get(ExifTags.Base.Orientation, 1)
    return int(number) if number in _TURNS else 1


def _of_jpeg(head: bytes) -> int | None:
    """The orientation in the segments of a JPEG file, 5 times as fast as Pillow; None where that must look closer."""
    place = 2
    while place + 4 <= len(head) and head[place] == 0xFF:
        marker, end = head[place + 1], place + 2 + int.from_bytes(head[place + 2 : place + 4], "big")
        if marker == _SCAN:
            return 1
        if marker == _APP1:
            segment = head[place + 4 : end]
            exif = Image.Exif()
            if segment.startswith(_EXIF):
                exif.load(segment)
            return exif.get(ExifTags.Base.Orientation)  # if there is none, XMP may have one
        place = end
    return None


def is_told(number: int, annotated: Size) -> bool:
    """Whether the height and width that annotations say tell which picture they are drawn on, if they fit either."""
    return number in _QUARTER_TURNS and annotated[0] != annotated[1]


def chosen_turn(number: int, stored: Size, annotated: Size | None, orientation: Orientation) -> int:
    """How to turn a picture so that its annotations fit.

    Args:
        number: Its EXIF orientation.
        stored: Height and width of the stored pixels.
        annotated: Height and width that its annotations say; none where there are no annotations.
        orientation: What to do where this does not tell.

    Returns:
        1 to leave it as it is, or the number.

    Raises:
        DataError: It is to be refused; the message lacks the file.
    """
    if annotated in (stored, stored[::-1]) and is_told(number, stored):
        return 1 if annotated == stored else number
    if number == 1 or orientation == "stored":
        return 1
    if orientation == "refuse":
        raise DataError(
            f"has EXIF orientation {number}, and nothing tells whether it is meant turned; say that it is "
            "(--data.orientation apply) or that it is not (--data.orientation stored), or store it turned"
        )
    return number


def turn(pixels: Pixels, number: int) -> Pixels:
    """Turns pixels (H, W, 3) as an EXIF orientation says."""
    return np.ascontiguousarray(_TURNS[number](pixels))
