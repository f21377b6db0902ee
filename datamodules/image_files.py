"""The one rule for which files are images and masks: in folders, globs and prediction alike.

A file is judged by its name. What is named singly, on the command line or in a json, is read whatever it is called.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple

from datamodules.errors import DataError

IMAGE_SUFFIXES = frozenset(
    ".avif .bmp .dib .gif .j2k .jfif .jp2 .jpe .jpeg .jpg .jpx .mpo .pbm .pgm .png .pnm .ppm .tga .tif .tiff "
    ".webp".split()
)
"""Endings (lower case) of the formats of still pictures that Pillow decodes; of several frames the first is taken.

Not among them is what Pillow also opens: documents, fonts, icons, films, textures, and stacks of scientific data."""

MASK_SUFFIXES = frozenset(".bmp .dib .pgm .png .pnm .tga .tif .tiff".split())
"""Those that keep one channel of labels as it is. JPEG and WebP do not, nor GIF, whose writers number colours anew."""


class Listing(NamedTuple):
    """What a folder holds.

    Attributes:
        files: Images, sorted.
        others: Files that are no images, by their ending in lower case (empty where there is none).
        hidden: Files with the ending of an image and a name or folder that begins with a dot, such as the `._x.jpg`
            that macOS lays beside `x.jpg`. They are no images.
    """

    files: list[Path]
    others: Counter[str]
    hidden: int


def is_image(path: Path) -> bool:
    """Whether a file counts as an image by its name, whatever the case of its ending."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path)


def is_mask(path: Path) -> bool:
    """Whether a file counts as a label mask by its name."""
    return path.suffix.lower() in MASK_SUFFIXES and not is_hidden(path)


def is_hidden(path: Path) -> bool:
    """Whether the name begins with a dot."""
    return path.name.startswith(".")


def list_folder(folder: Path, recursive: bool = False) -> Listing:
    """Looks through a folder. Links are followed, those to folders too.

    Args:
        folder: An existing folder.
        recursive: Look through its sub-folders, too; each is looked through once, even if links lead in circles.
    """
    found, others, hidden = [], Counter[str](), 0
    for path in _walk(folder, recursive):
        suffix = path.suffix.lower()
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            hidden += path.suffix.lower() in IMAGE_SUFFIXES
        elif suffix in IMAGE_SUFFIXES:
            found.append(path)
        else:
            others[suffix] += 1
    return Listing(sorted(found), others, hidden)


def _walk(folder: Path, recursive: bool) -> Iterator[Path]:
    """All files; a broken link is one, which cannot be read."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen or not recursive:
            folders.clear()
        if real in seen:
            continue
        seen.add(real)
        yield from (Path(parent, name) for name in names)


def list_images(source: str, recursive: bool = False, follow_links: bool = True) -> list[Path]:
    """Finds the images that a user names.

    Args:
        source: An image file, a folder or a glob pattern.
        recursive: Look through the sub-folders of a folder, too.
        follow_links: Take images through links that lead out of the folder.

    Returns:
        Sorted paths, at least one.

    Raises:
        DataError: Nothing was found, or a link that is not to be followed.
    """
    path = Path(source)
    if path.is_dir():
        listing = list_folder(path, recursive)
        found, others = listing.files, _others(listing)
    elif path.is_file():
        found, others = [path], ""
    else:
        matches = [Path(match) for match in glob(source, recursive=True)]
        found, others = sorted(filter(is_image, matches)), f"; {len(matches)} other files match" * bool(matches)
    if not found:
        if re.match("[a-z]+://", source):
            raise DataError(f"--data.images {source}: images are read from files; download it first")
        below = "" if recursive else " (with its sub-folders: --data.recursive true)"
        raise DataError(
            f"--data.images {source}: no image there{others}; give an image, a folder{below} or a quoted glob such as "
            "'photos/*.jpg'"
        )
    if not follow_links:
        folder = path if path.is_dir() else _fixed_part(path)
        for file in found:
            check_inside(folder, file)
    return found


def _fixed_part(pattern: Path) -> Path:
    """The folder that a glob pattern begins in."""
    return next(parent for parent in pattern.parents if not has_magic(str(parent)))


def _others(listing: Listing) -> str:
    """What a folder without images has instead."""
    found = [f"{count} {suffix or 'without ending'}" for suffix, count in listing.others.most_common(5)]
    found += [f"{listing.hidden} hidden"] * bool(listing.hidden)
    return f"; it has other files: {', '.join(found)}" if found else ""


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


def why_missing(path: Path) -> str:
    """What may be behind a missing file and helps, in a few words: nothing where nothing is known.

    Args:
        path: A file that does not exist.
    """
    if "\\" in str(path):
        return "its name has a backslash, as Windows writes paths; write / in its place"
    alike = _alike(path.name, path.parent)
    return f"the folder has {alike}: names are told apart by upper and lower case; correct the name" if alike else ""


def _alike(name: str, folder: Path) -> str | None:
    """A file of the folder whose name differs in upper and lower case only."""
    names: Iterable[str] = os.listdir(folder) if folder.is_dir() else ()
    return next((other for other in names if other.lower() == name.lower()), None)
