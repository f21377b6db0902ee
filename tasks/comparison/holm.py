"""Several methods against one baseline: p values that hold for all of them together."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979).

    Whatever the hypotheses have to do with each other, the probability that any true one of them gets a value below 5 %
    is below 5 %.

    Args:
        p_values: (n,) p values; nan where a hypothesis cannot be tested, which then does not count.

    Returns:
        (n,) corrected p values: the i-th smallest, from 1, is multiplied by n + 1 - i, and none is smaller than one
        before it, or larger than 1.
    """
    given = np.asarray(p_values, np.float64)
    corrected = np.full(given.shape, np.nan)
    order = np.argsort(given, kind="stable")
    order = order[~np.isnan(given[order])]
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(given[order] * factors), 1)
    return corrected
