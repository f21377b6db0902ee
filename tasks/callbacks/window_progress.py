"""How far a prediction is in a large image."""

import time
from collections.abc import Callable

from tasks.callbacks.progress import format_seconds

SECONDS = 10.0
"""Between two lines on the windows of one image."""


class WindowProgress:
    """Prints a line now and then while an image is seen window by window.

    Args:
        name: Of the image.
        show: Prints a line.
        every: Seconds between lines.
    """

    def __init__(self, name: str, show: Callable[[str], object], every: float = SECONDS) -> None:
        self.name, self.show, self.every = name, show, every
        self._started = self._shown = time.monotonic()
        self._before = 0

    def __call__(self, done: int, windows: int) -> None:
        """Takes how many windows are done, of how many; it starts anew for every look at the image."""
        now = time.monotonic()
        if done < self._before:
            self._started = now
        self._before = done
        if now - self._shown >= self.every:
            self._shown = now
            left = (now - self._started) / done * (windows - done)
            self.show(f"{self.name}: {done} of {windows} windows, {format_seconds(left)} left")
