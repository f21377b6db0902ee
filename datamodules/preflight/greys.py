"""The look at grey levels of more than 8 bits: whether they use so little of the range that all images are dark."""

from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.findings import EXAMPLES, Finding
from datamodules.images import MAX_PIXELS
from datamodules.preflight.twins import ImageFiles

SAMPLE = 16
"""Images that are looked at, over the whole split."""
_DARK = 1 << 14
"""Levels below are the lowest quarter of the range."""


def look_at_greys(files: ImageFiles, largest_grey: int | None) -> list[Finding]:
    """Looks whether 16-bit images are nearly black as they are read.

    Args:
        files: The images of a split, of which some are decoded.
        largest_grey: The option of the data modules.
    """
    count = len(files.names)
    paths = [files.path(place) for place in range(0, count, max(1, count // SAMPLE))]
    levels = {path: level for path in paths if (level := _largest_level(path)) is not None}
    if largest_grey is not None or not levels or max(levels.values()) >= _DARK:
        return []
    most = max(levels.values())
    text = (
        f"images of 16 bits that were looked at have grey levels up to {most} of 65535 only and are nearly black; give "
        f"the largest level of the data set, such as --data.largest_grey {2 ** max(1, most.bit_length()) - 1}"
    )
    examples = [path.name for path in levels][: EXAMPLES + 1]
    return [Finding("dark", "warning", str(files.folder), len(levels), len(levels), text, examples)]


def _largest_level(path: Path) -> int | None:
    """The largest grey level of a file with more than 8 bits; None of every other."""
    try:
        with Image.open(path) as image:
            if not image.mode.startswith("I") or image.width * image.height > MAX_PIXELS:
                return None
            return int(np.asarray(image).max())
    except Exception:  # what cannot be decoded is found elsewhere
        return None
