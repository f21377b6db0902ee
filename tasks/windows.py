"""Where windows lie in an image that is larger than the input of a network."""

from collections.abc import Callable
from typing import Protocol

Size = tuple[int, int]
"""Height and width."""


class OverWindows(Protocol):
    """Whatever looks at an image window by window.

    Attributes:
        progress: Is told how many windows of an image are done, and how many there are.
    """

    progress: Callable[[int, int], None] | None


def spans(length: int, window: int, stride: int) -> list[slice]:
    """Windows along one side of an image.

    The last one is moved inwards so that it stays inside; a side shorter than the window is taken as it is.

    Args:
        length: Pixels of the side.
        window: Pixels of a window.
        stride: Pixels from one window to the next.
    """
    steps = max(-(-(length - window) // stride), 0) + 1
    ends = [min(step * stride + window, length) for step in range(steps)]
    return [slice(max(end - window, 0), end) for end in ends]
