"""Numbers outside the range of their option, refused in one line."""

from math import inf

from tasks.errors import TaskError


def check_range(name: str, value: float | None, low: float, high: float = inf, note: str = "") -> None:
    """Refuses a number that is too small or too large; none is left to the type of the option.

    Args:
        name: Option or argument: `--stop_within`, `warmup_steps`.
        value: What it was given.
        low: The least that it may be.
        high: The most.
        note: What else may be written, behind the range.

    Raises:
        TaskError: The number is outside the range, or is none (NaN).
    """
    if value is not None and not low <= value <= high:
        expected = f"at least {low}" if high == inf else f"{low} to {high}"
        raise TaskError(f"{name} is {value}, expected {expected}{note}")
