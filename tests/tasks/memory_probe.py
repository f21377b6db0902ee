"""Calls for the test of fresh processes; imports next to nothing, so that they start quickly."""

import os
import signal
from collections.abc import Callable


def make_calls(megabytes: str) -> dict[str, Callable[[], object]]:
    size = int(megabytes) << 20
    return {"block": lambda: bytearray(size), "nothing": lambda: None}


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
