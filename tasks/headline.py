"""The one number by which the epochs of a run, and runs of a task, are compared."""

import math
from dataclasses import dataclass
from typing import Literal

Direction = Literal["max", "min"]


@dataclass(frozen=True)
class Headline:
    """A number of an evaluation, and which way it improves.

    Attributes:
        score: One of the scores of the task's metrics, such as `mAP`.
        direction: `max` where larger is better, `min` where smaller is.
    """

    score: str
    direction: Direction = "max"

    def logged(self, split: str = "val") -> str:
        """The name under which the score of a split is logged: `val/mAP`."""
        return f"{split}/{self.score}"

    def improves(self, value: float, best: float) -> bool:
        """Whether a value takes the place of the best so far: anything does of one that is not defined."""
        return math.isnan(best) or (value > best if self.direction == "max" else value < best)
