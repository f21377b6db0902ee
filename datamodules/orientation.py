"""EXIF orientations: how a picture is to be turned before it is shown.

Annotations may have been drawn on the pixels as they are stored, as COCO's were, or on the turned picture, as browsers
show it. Where a quarter turn makes the sizes differ, the size that stands in the annotations tells which; elsewhere the
user says it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

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
_JPEG_MARKERS = b"\xff\xd8\xff"
_APP1 = 0xE1
_WITHOUT_LENGTH = range(0xD0, 0xDA)


def exif_orientation(path: Path) -> int:
    """The EXIF orientation of an image file, 1..8; reads only the header.

    1 is a picture that is not turned; so are one without such an entry, with a damaged one, and a file that is none.
    That of a TIFF file is part of its format, and every decoder applies it: it counts as 1.

    Args:
        path: Image file.
    """
    try:
        with path.open("rb") as stream:
            if stream.read(len(_JPEG_MARKERS)) == _JPEG_MARKERS and not _has_app1(stream):
                return 1
            stream.seek(0)
            with Image.open(stream) as image:
                if image.format == "TIFF":
                    return 1
                # Not the method of PNG files, which decodes all of the picture to look behind it.
                number = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises almost anything; whether the file can be decoded is not asked here
        return 1
    return int(number) if number in _TURNS else 1


def _has_app1(stream: BinaryIO) -> bool:
    """Whether a JPEG file, read to its third byte, has a segment that EXIF or XMP could be in: 10 times as fast."""
    stream.seek(2)
    while len(head := stream.read(4)) == 4 and head[0] == 0xFF and head[1] not in _WITHOUT_LENGTH and head[1] != 0xDA:
        if head[1] == _APP1:
            return True
        stream.seek(int.from_bytes(head[2:], "big") - 2, 1)
    return False


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
    if number in _QUARTER_TURNS and stored[0] != stored[1] and annotated in (stored, stored[::-1]):
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
