"""What the counted pixels of masks make doubtful about the convention that they were read by."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datamodules.findings import Finding
from datamodules.mask_values import MaskValues

COMMON = 0.01
"""Share of the pixels from which on an ignored value is common."""


def doubt_first_value(where: str, values: MaskValues, pixels: Sequence[int] | NDArray[np.int64]) -> Finding | None:
    """Doubts that 0 is no class where it is common and the last class is in no mask.

    Masks that number their classes 0..K-1, read as if they counted from 1, look like this: class 0 is ignored, and each
    of the others is taken for the one before it. Ask when all masks were counted: a rare class may be in none of some.

    Args:
        where: The folder or split.
        values: How the masks were read.
        pixels: (K + 1,) pixels of each label of the model, and of those that are ignored.

    Returns:
        A warning, or None where there is no such doubt.
    """
    counted = values.first_value
    if counted is None or values.places.get(0, 0) is not None:
        return None
    last = len(values.names) - 1
    label = last if values.labels is None else int(values.labels[last])
    ignored, total = int(pixels[-1]), int(sum(pixels))
    if pixels[label] or ignored < COMMON * total:
        return None
    return Finding(
        "first_value",
        "warning",
        where,
        ignored,
        total,
        f"pixels are ignored and none is {counted + last} = {values.names[last]}, the last class: masks that number "
        f"their classes 0..{last} look like this when they are read as {counted}..{counted + last}; if these do, read "
        "them by --data LabelMasks, whose first class is 0 (docs/data.md)",
    )
