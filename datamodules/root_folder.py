"""The folder of a data set: that it is there, and that it is not the one above."""

from pathlib import Path

from datamodules.errors import DataError

SAMPLE = "or write the sample data set with: python -m datamodules.shapes --root data/shapes"


def require_root(root: Path, part: str) -> None:
    """Refuses a folder that is none, or that is above that of the data set.

    Args:
        root: The folder that is given.
        part: File or pattern below it without which it is no data set.

    Raises:
        DataError: With the folder to give instead, where there is one.
    """
    if root.is_file():
        raise DataError(f"--data.root {root} is a file; expected the folder of the data set, which holds {part}")
    if not root.is_dir():
        raise DataError(f"--data.root {root}: no such folder; give that of the data set, {SAMPLE}")
    if not Path(part).is_absolute() and not any(root.glob(part)) and (below := sorted(root.glob(f"*/{part}"))):
        found = root / below[0].relative_to(root).parts[0]
        raise DataError(f"--data.root {root} is the folder above the data set; give --data.root {found}")
