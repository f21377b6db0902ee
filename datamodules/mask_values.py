"""What the stored values of masks mean: one table from values, or colours, to labels."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.errors import DataError

Labels = NDArray[np.uint8] | NDArray[np.uint16]

MOST_OF_8_BITS = 254
"""Classes whose labels fit into 8 bits, beside the ignored one and one for values that mean nothing."""
MOST_CLASSES = 32_767
"""Labels are kept in 16 bits with a sign, of which -1 is ignored."""
_SHOWN = 8


def label_type(num_classes: int) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
    """The type of labels 0..K-1; its largest number, 255 or 65535, is the label of ignored pixels."""
    return np.dtype(np.uint8) if num_classes <= MOST_OF_8_BITS else np.dtype(np.uint16)


def ignored_label(labels: np.dtype[np.uint8] | np.dtype[np.uint16]) -> int:
    """The label of ignored pixels."""
    return int(np.iinfo(labels).max)


@dataclass(frozen=True)
class MaskValues:
    """Which class each value of a mask stands for.

    Attributes:
        names: The classes of the data set.
        places: Value -> place of its class in `names`, or None for ignored. A colour is the value
            r + 256 g + 65536 b.
        coloured: The values are colours.
        others_ignored: Values without an entry are ignored; otherwise they are refused.
        labels: (K,) label that the model has for each class. Default: its place.
        remedy: What helps where a value has no entry.
    """

    names: Sequence[str]
    places: Mapping[int, int | None]
    coloured: bool = False
    others_ignored: bool = False
    labels: NDArray[np.int64] | None = None
    remedy: str = "relabel the mask"

    def __post_init__(self) -> None:
        """Refuses what no table can hold."""
        if len(self.names) > MOST_CLASSES:
            raise DataError(f"there are {len(self.names)} classes, expected at most {MOST_CLASSES}")
        wrong = [value for value in self.places if not 0 <= value < self._size]
        if wrong:
            raise DataError(f"mask value {wrong[0]} expected in 0..{self._size - 1}; masks have 8 or 16 bits")

    @property
    def key(self) -> str:
        """All of it as one text, for what is remembered of masks that were read with it; `str` shortens."""
        labels = None if self.labels is None else self.labels.tolist()
        return repr(([*self.names], sorted(self.places.items()), self.coloured, self.others_ignored, labels))

    def read(self, stored: Labels) -> Labels:
        """The labels of a mask.

        Args:
            stored: (H, W) values, or (H, W, 3) RGB where values are colours.

        Returns:
            (H, W) labels 0..K-1 of the model, 255 for ignored pixels; uint16 and 65535 for more than 254 classes.

        Raises:
            DataError: A value has no entry.
        """
        if self.coloured:
            stored = cv2.cvtColor(stored, cv2.COLOR_RGB2RGBA).view("<u4")[..., 0] & 0xFFFFFF
        is_short = stored.dtype == np.uint8
        labels: Labels = cv2.LUT(stored, self.table[:256]) if is_short else self.table.take(stored)
        if not self.others_ignored:
            unknown = labels == self._unknown
            if unknown.any():
                value = int(stored[unknown].max())
                known = f"one of {len(self.places)} colours" if self.coloured else ranges(self.places, last=" or ")
                kind = "colour" if self.coloured else "label"
                raise DataError(f"{kind} {self._written(value)} found, expected {known}; {self.remedy}")
        return labels

    def __str__(self) -> str:
        """The convention in one line."""
        values: dict[int, list[int]] = {}
        for value, place in self._classes:
            values.setdefault(place, []).append(value)
        pairs = [f"{self._listed(values[place])} = {self.names[place]}" for place in values]
        shown = [*pairs[: _SHOWN - 1], "...", pairs[-1]] if len(pairs) > _SHOWN else pairs
        ignored = [value for value, place in self.places.items() if place is None]
        left_out = [self._listed(ignored)] * bool(ignored)
        left_out += ["all others"] * self.others_ignored
        count = f"{len(self.names)} class{'es' * (len(self.names) != 1)}"
        return f"{count}, {', '.join(shown)}; ignored: {', '.join(left_out) or 'nothing'}"

    def first_values(self) -> list[str]:
        """The first value of each class, as it is written."""
        first = {place: value for value, place in reversed(self._classes)}
        return [self._written(first[place]) if place in first else "nothing" for place in range(len(self.names))]

    @property
    def first_value(self) -> int | None:
        """The value of the first class where the others count on from it."""
        values = [value for value, _ in self._classes]
        first = min(values, default=0)
        counts_on = self._classes == [(first + place, place) for place in range(len(self.names))]
        return first if counts_on and not self.coloured else None

    @property
    def _classes(self) -> list[tuple[int, int]]:
        """Values and places of the classes, in the order of the classes."""
        pairs = [(value, place) for value, place in self.places.items() if place is not None]
        return sorted(pairs, key=lambda pair: pair[1])

    @property
    def _size(self) -> int:
        return 1 << (24 if self.coloured else 16)

    @property
    def _unknown(self) -> int:
        return ignored_label(label_type(len(self.names))) - 1

    @cached_property
    def table(self) -> Labels:
        """Label of each value: 64 KiB, 16 MiB for colours. Made before workers are forked, it is there once."""
        kind = label_type(len(self.names))
        ignored = ignored_label(kind)
        table = np.full(self._size, ignored if self.others_ignored else self._unknown, kind)
        labels = np.arange(len(self.names)) if self.labels is None else self.labels
        for value, place in self.places.items():
            table[value] = ignored if place is None else labels[place]
        return table

    def _listed(self, values: list[int]) -> str:
        return ", ".join(map(self._written, values)) if self.coloured else ranges(values)

    def _written(self, value: int) -> str:
        return str(unpacked(value)) if self.coloured else str(value)


def packed(colour: Sequence[int]) -> int:
    """An RGB colour as one number."""
    red, green, blue = colour
    return red + (green << 8) + (blue << 16)


def unpacked(value: int) -> tuple[int, int, int]:
    """The RGB colour of a number."""
    return value & 255, value >> 8 & 255, value >> 16


def ranges(values: Iterable[int], last: str = ", ") -> str:
    """Numbers in short: `0..3 or 255`."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    texts = [str(first) if first == end else f"{first}{'..' if end > first + 1 else ', '}{end}" for first, end in runs]
    return last.join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def expanded(values: Iterable[int | str]) -> list[int]:
    """Numbers of a list in which `"11..13"` stands for 11, 12, 13.

    Raises:
        DataError: An entry is neither.
    """
    numbers: list[int] = []
    for value in values:
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", str(value).strip())
        if match is None:
            raise DataError(f"{value!r} is no mask value, expected a number such as 7 or a range such as 11..13")
        first = int(match[1])
        numbers += range(first, int(match[2] or first) + 1)
    return numbers
