"""What the headers of image files say: that they are images, how large they are, and whether EXIF wants them turned."""

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from datamodules.findings import EXAMPLES, Finding, Severity
from datamodules.images import MAX_PIXELS, allow_pixels
from datamodules.orientation import Orientation, Size, exif_orientation
from datamodules.preflight.kept import each
from datamodules.preflight.report import Looked
from datamodules.room import LARGE

_QUARTER_TURN = 5
"""Orientations from here on exchange height and width."""

_UNCLEAR: dict[Orientation, Severity] = {"stored": "warning", "apply": "note", "refuse": "error"}
"""How bad it is where nothing tells whether a picture is meant turned."""


class Header(NamedTuple):
    """Of an image file.

    Attributes:
        size: Height and width of the stored pixels.
        orientation: EXIF's, 1..8.
        fault: Why it cannot be read; empty where it can.
    """

    size: Size
    orientation: int
    fault: str = ""


def read_header(path: Path, max_pixels: int = MAX_PIXELS) -> Header:
    """Reads the first bytes of an image file; one of more pixels is never decoded, and counts as one that cannot be."""
    allow_pixels(max_pixels)
    too_large = f"more than --data.max_pixels {max_pixels} allows"
    try:
        with Image.open(path) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Header((0, 0), 1, too_large)
    except Exception as error:  # a corrupt header makes Pillow's decoders raise almost anything
        return Header((0, 0), 1, " ".join(str(error).split()) or type(error).__name__)
    if width * height > max_pixels:
        return Header((0, 0), 1, f"{width} x {height} pixels, {too_large}")
    return Header((height, width), exif_orientation(path))


def has_large(paths: Sequence[Path], max_pixels: int) -> bool:
    """Whether one of the images is so large that its pixels are kept in a file (`datamodules/room.py`)."""
    headers = each(lambda place: read_header(paths[place], max_pixels), range(len(paths)))
    return any(prod(header.size) > LARGE for header in headers)


def look_at_headers(
    path: Callable[[int], Path],
    annotated: Callable[[int], Size],
    source: str,
    severity: Severity,
    orientation: Orientation,
    max_pixels: int,
    places: Sequence[int],
) -> Looked:
    """Looks whether images can be read and are as large as their annotations say.

    Files that do not exist are left out: they are another matter.

    Args:
        path: Image file at each place.
        annotated: Height and width that its annotations say.
        source: What says so.
        severity: How bad it is where an image cannot be used.
        orientation: What is done with an image that EXIF wants turned.
        max_pixels: Larger images are refused.
        places: Images that are looked at.
    """
    headers = dict(zip(places, each(lambda place: read_header(path(place), max_pixels), places), strict=True))
    there = {place: header for place, header in headers.items() if not header.fault or path(place).exists()}
    sound = {place: header for place, header in there.items() if not header.fault}
    unlike = [place for place, header in sound.items() if not _fits(header, annotated(place))]
    turned = [place for place, header in sound.items() if header.orientation != 1]
    unclear = [place for place in turned if not _tells(sound[place], annotated(place))]
    broken = [f"{path(place).name}: {header.fault}" for place, header in there.items() if header.fault]
    shown = [
        f"{path(place).name}: {_sides(sound[place].size)} instead of {_sides(annotated(place))}"
        for place in unlike[: EXAMPLES + 1]
    ]
    named = [f"{path(place).name}: {sound[place].orientation}" for place in unclear[: EXAMPLES + 1]]
    found: list[tuple[str, Severity, int, str, list[str]]] = [
        ("unreadable", severity, len(broken), "images cannot be read; replace them or take them out", broken),
        ("size", severity, len(unlike), f"images are not as large (height x width) as {source} says", shown),
        (
            "orientation",
            _UNCLEAR[orientation],
            len(unclear),
            "images have an EXIF orientation other than 1, and their size does not tell whether the annotations are "
            f"drawn on the turned picture: --data.orientation is {orientation}",
            named,
        ),
        ("turned", "note", len(turned) - len(unclear), "images are turned or not as their size in it tells", []),
    ]
    findings = [
        Finding(kind, how_bad, str(path(places[0]).parent), count, len(places), text, examples[: EXAMPLES + 1])
        for kind, how_bad, count, text, examples in found
        if count
    ]
    return Looked({"headers read": len(places)}, findings)


def _fits(header: Header, annotated: Size) -> bool:
    turned = header.size[::-1] if header.orientation >= _QUARTER_TURN else header.size
    return annotated in (header.size, turned)


def _tells(header: Header, annotated: Size) -> bool:
    """Whether the size says on which of the two, the stored or the turned picture, the annotations are drawn."""
    return header.orientation >= _QUARTER_TURN and header.size[0] != header.size[1] and _fits(header, annotated)


def _sides(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
