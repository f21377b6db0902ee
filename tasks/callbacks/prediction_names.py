"""What the predictions of each image are called: like the image, and no two alike."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tasks.errors import TaskError


def prediction_names(files: Iterable[Path]) -> dict[str, str]:
    """Names the predictions of all images of a run, so that every process gives the same names.

    A name is the path of the image below the common parent of all, without its ending: `cam1/0001` for
    `.../cam1/0001.png` where there is also a `.../cam2/0001.png`. Where images differ in nothing else they keep their
    endings: `0001.jpg` and `0001.png`.

    Args:
        files: All images that are predicted.

    Returns:
        The name of each file, by its path as given.

    Raises:
        TaskError: Two pictures `NAME.png` would stand in each other's way.
    """
    absolute = {file: Path(os.path.abspath(file)) for file in files}
    parent = os.path.commonpath({file.parent for file in absolute.values()})
    below = {file: file.relative_to(parent) for file in sorted(absolute.values())}
    alike = Counter(path.with_suffix("") for path in below.values())
    names = {file: path if alike[path.with_suffix("")] > 1 else path.with_suffix("") for file, path in below.items()}
    owners = {folder: file for file, name in names.items() for folder in name.parents}
    for file, name in names.items():
        picture = Path(f"{name}.png")
        other = owners.setdefault(picture, file)
        if other != file:
            raise TaskError(f"the predictions of {other} and {file} would both be {picture}; rename one of the images")
    return {str(file): str(names[place]) for file, place in absolute.items()}
