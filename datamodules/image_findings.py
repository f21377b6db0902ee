"""What only a look into the image files shows: pictures that EXIF wants turned, and dark grey levels of 16 bits."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.findings import EXAMPLES, Finding, Severity
from datamodules.images import MAX_PIXELS
from datamodules.orientation import Orientation, Size, exif_orientation, is_told

THREADS = 16
"""Files that are waited for at once: headers are read in no time, but from a network drive they come late."""

SAMPLED = 16
"""Images whose grey levels are looked at."""


def orientation_findings(
    paths: Sequence[Path], orientation: Orientation, sizes: Sequence[Size] | None = None, where: str = ""
) -> list[Finding]:
    """Counts the pictures that EXIF wants turned; reads the header of every file.

    Args:
        paths: Images; missing ones are left out.
        orientation: What is done with them where the size of their annotations does not tell.
        sizes: Height and width that the annotations of each say. Default: unknown.
        where: What the findings are about. Default: the folder of the first image.
    """
    with ThreadPoolExecutor(THREADS) as threads:
        numbers = list(threads.map(exif_orientation, paths, chunksize=64))
    turned = [place for place, number in enumerate(numbers) if number != 1]
    told = {place for place in turned if sizes is not None and is_told(numbers[place], sizes[place])}
    untold = [place for place in turned if place not in told]
    where = where or str(paths[0].parent if paths else "")

    def finding(kind: str, severity: Severity, places: Sequence[int], text: str) -> Finding:
        kinds = ", ".join(f"{count} x {number}" for number, count in Counter(numbers[p] for p in places).most_common())
        examples = [paths[place].name for place in places[: EXAMPLES + 1]]
        return Finding(kind, severity, where, len(places), len(paths), f"{text} (orientation: {kinds})", examples)

    found = []
    if told:
        text = "images are turned by EXIF; whether their annotations are drawn on the turned picture, their sizes tell"
        found.append(finding("exif_told", "note", sorted(told), text))
    if untold:
        severity, text = _UNTOLD[orientation]
        found.append(finding("exif_untold", severity, untold, text))
    return found


_UNTOLD: dict[Orientation, tuple[Severity, str]] = {
    "stored": (
        "warning",
        "images are turned by EXIF, and are read as stored; where annotations are drawn on the turned picture, as "
        "browser tools do, set --data.orientation apply",
    ),
    "apply": ("note", "images are turned by EXIF, and are read turned, as --data.orientation apply says"),
    "refuse": ("error", "images are turned by EXIF, which --data.orientation refuse forbids; store them turned"),
}


def grey_findings(paths: Sequence[Path], largest_grey: int | None, where: str = "") -> list[Finding]:
    """Looks whether 16-bit greys use only the lowest part of their range, so that all would be dark.

    Args:
        paths: Images, of which a few are decoded.
        largest_grey: The option of the data modules.
        where: What the findings are about. Default: the folder of the first image.
    """
    step = max(1, len(paths) // SAMPLED)
    levels = {path: level for path in paths[::step] if (level := _largest_level(path)) is not None}
    if largest_grey is not None or not levels or max(levels.values()) >= _DARK:
        return []
    largest = 2 ** max(1, int(max(levels.values())).bit_length()) - 1
    text = (
        f"16-bit images looked at have grey levels up to {max(levels.values())} only, of 65535: they are nearly black; "
        f"give the largest level of the data set, such as --data.largest_grey {largest}"
    )
    names = [path.name for path in levels]
    return [Finding("dark", "warning", where or str(paths[0].parent), len(levels), len(levels), text, names)]


_DARK = 1 << 14
"""Levels below are the lowest quarter of the range."""


def _largest_level(path: Path) -> int | None:
    """The largest grey level of a file with more than 8 bits; None of every other."""
    try:
        with Image.open(path) as image:
            if not image.mode.startswith("I") or image.width * image.height > MAX_PIXELS:
                return None
            return int(np.asarray(image).max())
    except Exception:  # what cannot be decoded is found elsewhere
        return None
