"""What is read of another layout, before it is written: the images of a split and their objects."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.class_lists import read_lines
from datamodules.errors import DataError
from datamodules.findings import Finding
from datamodules.image_files import is_image, list_folder
from datamodules.orientation import Size, exif_orientation
from datamodules.preflight.headers import read_header


class Object(NamedTuple):
    """One object of an image.

    Attributes:
        name: Its class.
        box: x, y, width and height in pixels.
        is_crowd: Whether training leaves it out and the metric ignores it.
        segmentation: Polygons or a run-length code, as COCO writes them; none where there is only a box.
    """

    name: str
    box: Sequence[float]
    is_crowd: bool = False
    segmentation: Any = None


@dataclass(frozen=True)
class Picture:
    """An image of a split and what is in it.

    Attributes:
        path: Relative to the images folder.
        size: Height and width in pixels.
        objects: In the order of the label file.
    """

    path: Path
    size: Size
    objects: Sequence[Object]


@dataclass
class Converted:
    """A split in another layout, read.

    Attributes:
        class_names: The classes in order; the first has id 1.
        pictures: The images.
        findings: What was left out or is doubtful.
    """

    class_names: Sequence[str]
    pictures: Sequence[Picture]
    findings: list[Finding] = field(default_factory=list)

    def note(self, kind: str, where: Path, found: Sequence[object], total: int, text: str) -> None:
        """Adds a warning, if it is about anything."""
        if found:
            self.findings.append(
                Finding(kind, "warning", str(where), len(found), total, text, [str(one) for one in found])
            )

    def objects_by_class(self) -> dict[str, int]:
        """How many objects of each class there are, crowd regions not counted."""
        counts = Counter(one.name for picture in self.pictures for one in picture.objects if not one.is_crowd)
        return {name: counts[name] for name in self.class_names}


def find_images(folder: Path, names: Path | None) -> list[Path]:
    """The images of a split, relative to their folder, with those in sub-folders; sorted.

    Args:
        folder: The images folder.
        names: Text file with a line for each image of the split: its name, or a path that ends in it, with or without
            the ending. Default: all images of the folder.

    Raises:
        DataError: The folder has no images, or a listed one is not there or there twice.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give the folder of the images")
    found = [path.relative_to(folder) for path in list_folder(folder, recursive=True).files]
    if not found:
        raise DataError(f"no images in {folder}; give the folder of the images")
    if names is None:
        return found
    by_stem: dict[str, list[Path]] = {}
    for path in found:
        by_stem.setdefault(path.stem, []).append(path)
    listed = set()
    for line in map(str.strip, read_lines(names)):
        parts = _without_ending(Path(line)).parts
        fitting = [path for path in by_stem.get(parts[-1], []) if _ends_alike(_without_ending(path).parts, parts)]
        if len(fitting) != 1:
            places = ", ".join(map(str, fitting)) or "none"
            raise DataError(f"{names} lists {line!r}, expected one image of {folder} with this name; found {places}")
        listed.add(fitting[0])
    return sorted(listed)


def shown_size(path: Path) -> tuple[Size, bool]:
    """Height and width of a picture as viewers show it, and whether EXIF has them turn or mirror it.

    Raises:
        DataError: It cannot be read.
    """
    header = read_header(path)
    if header.fault:
        raise DataError(f"{path} cannot be read ({header.fault}); replace the image, or take it out")
    turned = exif_orientation(path)
    return header.size[::-1] if turned >= _QUARTER_TURN else header.size, turned != 1


_QUARTER_TURN = 5
"""Orientations from here on exchange height and width."""


def _without_ending(path: Path) -> Path:
    return path.with_suffix("") if is_image(path) else path


def _ends_alike(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether one path is the end of the other."""
    length = min(len(one), len(other))
    return one[-length:] == other[-length:]
