"""Which ids the images of a prediction have."""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from datamodules.coco_annotations import AnnotationFile
from datamodules.orientation import Size


class ImageIds(NamedTuple):
    """Ids of images, in their order.

    Attributes:
        ids: One for each image.
        source: Where they are from, in one line.
        sizes: Height and width that an annotation file says of each; none where there is no such file.
    """

    ids: list[int]
    source: str
    sizes: list[Size] | None = None


def find_image_ids(paths: Sequence[Path], splits: Iterable[tuple[Path, Path]] = ()) -> ImageIds:
    """The ids of an annotation file where the images are all its own; else the numbers of their names, or a count.

    Args:
        paths: Image files, in their order.
        splits: Images folder and annotation file of each split, which need not exist.

    Raises:
        DataError: The annotation file of the folder that the images lie in is none.
    """
    known = ""
    for folder, annotations in splits:
        names = _names_below(folder, paths)
        if names is None or not annotations.is_file():
            continue
        file = AnnotationFile(annotations)
        rows = {PurePosixPath(name): row for row, name in enumerate(file.file_names)}
        if len(rows) == len(file) and rows.keys() >= set(names):
            chosen = [rows[name] for name in names]
            sizes = [(int(height), int(width)) for height, width in file.sizes[chosen]]
            return ImageIds(file.image_ids[chosen].tolist(), f"image ids are those of {annotations}", sizes)
        known = f", as {annotations} does not name each of these images once"
    numbers = [int(path.stem) for path in paths if path.stem.isdecimal()]
    if len(set(numbers)) == len(paths):
        return ImageIds(numbers, f"image ids are the numbers of the file names{known}")
    counted = list(range(1, len(paths) + 1))
    return ImageIds(counted, f"image ids count the files from 1 in the order of their names{known}; see images.json")


def _names_below(folder: Path, paths: Sequence[Path]) -> list[PurePosixPath] | None:
    """The images' names as an annotation file of the folder would have them; none where one lies elsewhere."""
    parents = {parent: parent.resolve() for parent in {path.parent for path in paths}}
    top = folder.resolve()
    if not all(parent.is_relative_to(top) for parent in parents.values()):
        return None
    return [PurePosixPath((parents[path.parent] / path.name).relative_to(top).as_posix()) for path in paths]
