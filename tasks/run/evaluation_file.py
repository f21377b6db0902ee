"""`evaluation.npz`: what every image of an evaluation adds to its scores, so that any choice of images can be scored.

from tasks.run.evaluation_file import SegmentationEvaluation

evaluation = SegmentationEvaluation.read("runs/segment/NAME/evaluation.npz")
evaluation.scores()  # those of summary.json, exactly
evaluation.scores(numpy.random.default_rng(0).integers(0, 2000, 2000))  # a draw of the images with replacement
"""

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from tasks.errors import TaskError
from tasks.metrics.image_areas import ImageAreas
from tasks.metrics.named import ImageName
from tasks.run.files import write_whole

EVALUATION = "evaluation.npz"
FORMAT = 1


class Evaluation(Protocol):
    """What a task keeps of an evaluation beside its numbers."""

    def write(self, path: Path) -> None:
        """Writes it, whole or not at all."""

    def data_hash(self) -> str:
        """Hash of images, classes and ground truth, without anything that was predicted."""


@dataclass(frozen=True, eq=False)
class SegmentationEvaluation:
    """Areas of K classes in the I images of an evaluation, in the order of the split.

    It does not depend on the number of processes or on the size of batches, and its file does not either, byte by byte.
    On disk: 2 to 5 bytes for each class that an image holds, 2 MB for ADE20K's 2,000 images.

    Attributes:
        class_names: K names; position is the label.
        images: I files below the folder that they have in common, so that runs on two machines call them the same.
        areas: Areas of the classes in each image.
        confusion: (K, K) int64 pixels of all images; rows are ground truth, columns prediction.
    """

    class_names: tuple[str, ...]
    images: tuple[str, ...]
    areas: ImageAreas
    confusion: NDArray[np.int64]

    @classmethod
    def of(
        cls, class_names: Sequence[str], images: Sequence[ImageName], areas: ImageAreas, confusion: Tensor
    ) -> "SegmentationEvaluation":
        """Puts images into the order of their numbers.

        Args:
            class_names: K names.
            images: Number and file of each of I images, in any order.
            areas: Their areas, in the same order.
            confusion: (K, K) pixels of all of them.

        Raises:
            ValueError: There are not as many names as images.
        """
        if len(images) != len(areas.truth):
            raise ValueError(f"{len(images)} images have names, but {len(areas.truth)} were scored")
        order = sorted(range(len(images)), key=lambda place: images[place])
        names = below_common_folder([images[place][1] for place in order])
        return cls(tuple(class_names), names, areas.take(order), confusion.numpy().astype(np.int64))

    def scores(self, images: Sequence[int] | NDArray[np.int64] | None = None) -> dict[str, float]:
        """What `SegmentationMetric` gives for some images.

        Args:
            images: Places of the images; one that is there twice counts twice. Default: all of them, once.

        Returns:
            Scores of `ImageAreas.scores`, and `IoU/<class>` of every class.
        """
        areas = self.areas if images is None else self.areas.take(images)
        names = [f"IoU/{name}" for name in self.class_names]
        return areas.scores() | dict(zip(names, areas.class_iou().tolist(), strict=True))

    def data_hash(self) -> str:
        """Hash of the classes' and images' names, and of the pixels of every class in each image."""
        return hash_of(self.class_names, self.images, self.areas.truth)

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all; NumPy reads it without this library."""
        content = {
            "format": np.array(FORMAT),
            "class_names": np.array(self.class_names, dtype=np.str_),
            "images": np.array(self.images, dtype=np.str_),
            "intersection": _narrow(self.areas.intersection),
            "truth": _narrow(self.areas.truth),
            "predicted": _narrow(self.areas.predicted),
            "confusion": self.confusion,
        }
        write_whole(path, lambda file: np.savez_compressed(file, allow_pickle=False, **content))

    @classmethod
    def read(cls, path: str | Path) -> "SegmentationEvaluation":
        """Reads the file of a run.

        Raises:
            TaskError: It is no such file, or one of a later version.
        """
        with reading(path, "segment") as content:
            parts = (content[name].astype(np.int64) for name in ("intersection", "truth", "predicted"))
            class_names, images = (tuple(content[name].tolist()) for name in ("class_names", "images"))
            return cls(class_names, images, ImageAreas(*parts), content["confusion"])


def below_common_folder(files: Sequence[str]) -> tuple[str, ...]:
    """Files below the folder that they have in common, so that runs on two machines call them the same."""
    paths = [os.path.abspath(file) for file in files]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return tuple(Path(path).relative_to(folder).as_posix() for path in paths)


@contextlib.contextmanager
def reading(path: str | Path, task: str) -> Iterator[Mapping[str, NDArray[Any]]]:
    """The arrays of an evaluation file.

    Args:
        path: The file.
        task: `detect` or `segment`, by which it was written.

    Raises:
        TaskError: It is no such file, or one of a later version.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            version = int(content["format"])
            if version != FORMAT:
                raise TaskError(
                    f"{path} has format {version}, expected {FORMAT}; read it with the version that has written it"
                )
            yield content
    except TaskError:
        raise
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise TaskError(
            f"{path} cannot be read as an evaluation ({error}); expected {EVALUATION} of a run of tasks.{task}"
        ) from error


def hash_of(class_names: Sequence[str], images: Sequence[str], *truth: NDArray[Any]) -> str:
    """64 bits (XXH3) of a data set's content, as hexadecimal digits."""
    digest = xxhash.xxh3_64("\0".join([*class_names, "", *images]).encode())
    for values in truth:
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _narrow(areas: NDArray[np.int64]) -> NDArray[np.uint32] | NDArray[np.int64]:
    """In half the bytes, where that holds all of them."""
    return areas.astype(np.uint32) if areas.max(initial=0) < 2**32 else areas
