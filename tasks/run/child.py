"""A run as a child of this process: what asks this process to stop is the child's to answer."""

import signal
import subprocess
from collections.abc import Sequence
from types import FrameType

from tasks.run import exit_codes

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals at which a run saves and leaves (`tasks/run/stop.py`)."""


def run_to_end(command: Sequence[str]) -> int:
    """Runs a command, hands stop signals on to it, and waits until it has saved and left.

    Returns:
        Its exit code; that of the signal where it was stopped, even if it has reached its end all the same.
    """
    process: subprocess.Popen[bytes] | None = None
    received: list[int] = []

    def hand_on(number: int, _: FrameType | None) -> None:
        received.append(number)
        if process is not None:
            process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in STOPS}
    try:
        process = subprocess.Popen(command)
        if received:  # between the two lines above
            process.send_signal(received[-1])
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received and code == exit_codes.FINISHED:
        return exit_codes.of_signal(received[-1])
    return code if code >= 0 else exit_codes.of_signal(-code)
