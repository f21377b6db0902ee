"""Numbers on a command line that have a least value."""

from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that takes an integer from `least` on; its name stands in what is said of other values."""

    def number(text: str) -> int:
        if int(text) < least:
            raise ValueError(text)
        return int(text)

    number.__name__ = f"an integer from {least} on"
    return number
