"""Which cases of a test run every time: one a family. The others run with `-m slow`."""

from collections.abc import Container, Iterable

import pytest


def mostly_slow(names: Iterable[object], here: Container[object]) -> list[object]:
    """Cases of a test, of which all but some are slow.

    Args:
        names: All cases.
        here: Those of every run.
    """
    return [pytest.param(name, marks=() if name in here else pytest.mark.slow) for name in names]
