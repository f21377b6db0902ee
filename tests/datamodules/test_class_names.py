"""Classes are matched by name; messages about long lists stay short and show what differs."""

import numpy as np
import pytest

from datamodules import DataError
from datamodules.class_names import ClassList, match_classes, renumbering

LONG = [f"class {number}" for number in range(100)]


def test_labels_of_the_model() -> None:
    labels = match_classes(ClassList("the model", ["c", "a", "b"]), ClassList("f.json", ["a", "b", "c"]))
    assert labels.tolist() == [1, 2, 0] and labels.dtype == np.int64


def test_what_differs_is_shown_first() -> None:
    with pytest.raises(DataError) as error:
        match_classes(ClassList("the model", LONG), ClassList("f.json", [*LONG[:-1], "new"]))
    start = ", ".join(LONG[:7])
    assert str(error.value).startswith(
        f"the model has 100 classes (class 99, {start}, ...), but f.json has 100 classes (new, {start}, ...); expected "
        "the same names in any order: "
    )


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", "B"], ["a", "b "], ["a", "b", "c"]])
def test_other_names_are_refused(names: list[str]) -> None:
    with pytest.raises(DataError, match=r"^the model has 2 classes \(.*\), but f\.json has "):
        match_classes(ClassList("the model", ["a", "b"]), ClassList("f.json", names))


def test_other_numbers_are_said() -> None:
    file = ClassList("f.json", ["a", "b"])
    assert renumbering(file, np.array([0, 1]), [3, 7]) is None
    says = "f.json numbers its classes differently from the model; mapped by name: "
    assert renumbering(file, np.array([0, 1]), [3, 7], renamed=True) == f"{says}0 a = 3, 1 b = 7"
    assert renumbering(file, np.array([1, 0]), [3, 7]) == f"{says}0 b = 7, 1 a = 3"
    many = renumbering(ClassList("f.json", LONG), np.arange(100)[::-1], range(1, 101))
    assert many == says + ", ".join(f"{label} class {99 - label} = {100 - label}" for label in range(8)) + ", ..."
