"""Probabilities of an image in a compressed file that `numpy.load` reads, written some rows at a time."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from torch import Tensor

QUICK = 1
"""Level of compression: a tenth of the time of the usual one for a tenth more bytes."""


class ProbabilityFile:
    """An `.npz` of `class_names` (K,) and `probabilities` (H, W, K) as unsigned integers, the largest of which means 1.

    It gets its name when the last row is written.

    Args:
        path: The file.
        size: Height H and width W.
        class_names: K names.
        bits: 8 or 16, of each number.
    """

    def __init__(self, path: Path, size: tuple[int, int], class_names: Sequence[str], bits: int) -> None:
        self.path, self.kind, self._left = path, np.dtype(f"u{bits // 8}"), size[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._archive = zipfile.ZipFile(self._temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=QUICK)
        with self._archive.open("class_names.npy", "w") as file:
            npy.write_array(file, np.array(class_names, dtype=np.str_), allow_pickle=False)
        self._file: IO[bytes] = self._archive.open("probabilities.npy", "w", force_zip64=True)
        header: dict[str, Any] = {
            "descr": npy.dtype_to_descr(self.kind),
            "fortran_order": False,
            "shape": (*size, len(class_names)),
        }
        npy.write_array_header_1_0(self._file, header)

    def __call__(self, rows: Tensor) -> None:
        """Writes the next rows (n, W, K)."""
        numbers = (rows * np.iinfo(self.kind).max).round_().cpu().numpy().astype(self.kind)
        self._file.write(numbers.tobytes())
        self._left -= len(rows)
        if not self._left:
            self._file.close()
            self._archive.close()
            self._temporary.replace(self.path)
