"""Pages on the terminal."""

import os
import sys


def show(page: str) -> None:
    """Prints a page; a reader who leaves before its end, such as `head`, is no error."""
    try:
        print(page, flush=True)  # noqa: T201
    except BrokenPipeError:
        # What is still buffered is written at the end of the process, to nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
