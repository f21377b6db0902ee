"""How many runs a comparison needs."""

import math

from scipy.special import ndtri

from tasks.errors import TaskError


def runs_needed(deviation: float, difference: float, power: float = 0.8, level: float = 0.05) -> int:
    """Runs of each of two methods with which a difference is found.

        n = 2 (z_(1 - level / 2) + z_power)^2 (deviation / difference)^2

    Args:
        deviation: Standard deviation of the score over seeds of one recipe.
        difference: Difference of the methods that is not to be missed, in the same unit.
        power: Probability of finding it.
        level: Probability of finding one where there is none.

    Returns:
        At least 2: the spread over seeds does not show in one run.

    Raises:
        TaskError: A number is out of its range.
    """
    for name, value, fits, expected in (
        ("the standard deviation over seeds", deviation, 0 <= deviation < math.inf, "0 or more"),
        ("the wanted difference", difference, 0 < abs(difference) < math.inf, "a number other than 0"),
        ("the power", power, level < power < 1, f"a probability between {level} and 1, such as 0.8"),
    ):
        if not fits:
            raise TaskError(f"{name} is {value:g}, expected {expected}")
    errors = float(ndtri(1 - level / 2) + ndtri(power))
    return max(2, math.ceil(2 * (errors * deviation / difference) ** 2))
