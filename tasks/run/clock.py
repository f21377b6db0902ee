"""How long a run has trained, over all of its starts."""

import time


class RunClock:
    """Seconds on the wall since training began, validation and saving included.

    The pauses between the starts of a run are left out, and so is what was done after the checkpoint that a start goes
    on from: that is done again.
    """

    def __init__(self) -> None:
        self._before = 0.0
        self._started: float | None = None

    def go_on_from(self, seconds: float) -> None:
        """Adds the starts before."""
        self._before = seconds

    def start(self) -> None:
        """Begins to count."""
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """What it shows."""
        return self._before + (0.0 if self._started is None else time.monotonic() - self._started)
