"""Files of an earlier start that cannot be read: kept under another name, and the run goes on without them."""

from itertools import count
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info


def set_aside(path: Path, fault: str) -> Path:
    """Renames a damaged file to `NAME.damaged` (`NAME.damaged.2`, ... where that is taken), and says so in one line.

    Args:
        path: The file.
        fault: What is wrong with it, to stand behind "is damaged".

    Returns:
        Its new name.

    Raises:
        OSError: It cannot be renamed.
    """
    names = (path.with_name(f"{path.name}.damaged" + (f".{number}" if number > 1 else "")) for number in count(1))
    free = next(name for name in names if not name.exists())
    path.rename(free)
    rank_zero_info(f"{path} is damaged ({fault}); it is kept as {free.name}, and a new one is begun")
    return free
