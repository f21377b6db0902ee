"""Classes of a data set and of a model, matched by their names: numbers change from file to file, names do not."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import DataError

SHOWN = 8
"""Names of a list that a message shows."""


@dataclass(frozen=True)
class ClassList:
    """Names of classes, position = label, and who lists them.

    Attributes:
        owner: A file, or the model.
        names: The names, all different.
    """

    owner: str
    names: Sequence[str]

    def beside(self, other: "ClassList") -> str:
        """How many names there are, and the first of them: those that another list lacks before the rest."""
        lacking_first = sorted(self.names, key=set(other.names).__contains__)
        count = f"{len(self.names)} class{'es' * (len(self.names) != 1)}"
        return f"{self.owner} has {count} ({', '.join(lacking_first[:SHOWN])}{', ...' * (len(self.names) > SHOWN)})"


def match_classes(model: ClassList, data: ClassList) -> NDArray[np.int64]:
    """Finds the label that the model has for each class of a data set.

    Args:
        model: The classes that the model knows.
        data: The classes of a file.

    Returns:
        (K,) labels of the model, position = label of the file.

    Raises:
        DataError: The names are not the same.
    """
    if sorted(model.names) != sorted(data.names):
        raise DataError(
            f"{model.beside(data)}, but {data.beside(model)}; expected the same names in any order: take data with "
            "these classes, or start a new run on the new ones (--model.weights takes over what fits)"
        )
    labels = {name: label for label, name in enumerate(model.names)}
    return np.array([labels[name] for name in data.names], dtype=np.int64)


def renumbering(
    data: ClassList, labels: NDArray[np.int64], numbers: Sequence[object], renamed: bool = False
) -> str | None:
    """One sentence on a file whose classes have other numbers than the model's, or None where they are the same.

    Args:
        data: The classes of the file.
        labels: (K,) labels of the model, position = label of the file.
        numbers: What the file calls its classes.
        renamed: The model was trained with other numbers, though in the same order.
    """
    by_label = np.argsort(labels).tolist()
    if not renamed and by_label == list(range(len(by_label))):
        return None
    shown = ", ".join(f"{label} {data.names[place]} = {numbers[place]}" for label, place in enumerate(by_label[:SHOWN]))
    return (
        f"{data.owner} numbers its classes differently from the model; mapped by name: {shown}"
        f"{', ...' * (len(by_label) > SHOWN)}"
    )
