"""`evaluation.npz` of a detector: how its detections were matched, from which AP on any choice of images follows.

from tasks.comparison.weighted_ap import WeightedAP
from tasks.run.detection_file import DetectionEvaluation

evaluation = DetectionEvaluation.read("runs/detect/NAME/evaluation.npz")
boxes = WeightedAP(evaluation.matches["bbox"], len(evaluation.images))
boxes.scores(numpy.ones(len(evaluation.images), int))[0]  # val/mAP of summary.json
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.metrics.coco_backends import COUNTED, BackendName, IoUType
from tasks.metrics.matches import Matches, match
from tasks.metrics.packed_images import ImageRecord
from tasks.run.evaluation_file import FORMAT, below_common_folder, hash_of, reading
from tasks.run.files import write_whole


@dataclass(frozen=True, eq=False)
class DetectionEvaluation:
    """Matched detections of K classes in the I images of an evaluation, in the order of their ids.

    Neither it nor its file depends on the number of processes. On disk: about 5 bytes a detection.

    Attributes:
        class_names: K names; position is the label.
        images: I files below the folder that they have in common, so that runs on two machines call them the same.
        image_ids: I ids of the annotation file, rising.
        matches: By "bbox", and "segm" where masks were scored.
    """

    class_names: tuple[str, ...]
    images: tuple[str, ...]
    image_ids: tuple[int, ...]
    matches: Mapping[IoUType, Matches]

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all; NumPy reads it without this library."""
        content: dict[str, NDArray[Any]] = {
            "format": np.array(FORMAT),
            "class_names": np.array(self.class_names, dtype=np.str_),
            "images": np.array(self.images, dtype=np.str_),
            "image_ids": np.array([str(number) for number in self.image_ids], dtype=np.str_),  # of any size
        }
        for kind, matches in self.matches.items():
            for name in _NAMES:
                content[f"{kind}_{name}"] = _narrow(getattr(matches, name))
        write_whole(path, lambda file: np.savez_compressed(file, allow_pickle=False, **content))

    @classmethod
    def read(cls, path: str | Path) -> "DetectionEvaluation":
        """Reads the file of a run.

        Raises:
            TaskError: It is no such file, or one of a later version.
        """
        with reading(path, "detect") as content:
            class_names, images = (tuple(content[name].tolist()) for name in ("class_names", "images"))
            kinds: list[IoUType] = ["bbox", "segm"] if "segm_starts" in content else ["bbox"]
            matches = {kind: _widen({name: content[f"{kind}_{name}"] for name in _NAMES}) for kind in kinds}
            return cls(class_names, images, tuple(int(number) for number in content["image_ids"]), matches)


@dataclass(frozen=True, eq=False)
class ScoredDetections:
    """What a detector's metric has scored, to be matched and written where it is worth keeping; in process 0.

    Attributes:
        class_names: K names.
        records: I images, ordered by their ids.
        files: The file of each.
        kinds: What is scored.
        backend: What matches.
        counted: Detections of an image and class that count.
    """

    class_names: tuple[str, ...]
    records: Sequence[ImageRecord]
    files: Sequence[str]
    kinds: Sequence[IoUType]
    backend: BackendName
    counted: int = COUNTED

    def matched(self) -> DetectionEvaluation:
        """Matches all detections, which takes some seconds for half a million."""
        num_classes = len(self.class_names)
        matches = {kind: match(self.records, num_classes, kind, self.backend, self.counted) for kind in self.kinds}
        image_ids = tuple(record.image_id for record in self.records)
        return DetectionEvaluation(self.class_names, below_common_folder(self.files), image_ids, matches)

    def data_hash(self) -> str:
        """Hash of the classes' and images' names, and of sizes and annotated boxes, areas, classes and crowds."""
        sizes = np.array([record.size for record in self.records], np.int64)
        counts = np.array([len(record.ground_truths) for record in self.records], np.int64)
        truths = [record.ground_truths for record in self.records]
        return hash_of(self.class_names, below_common_folder(self.files), sizes, counts, *truths)

    def write(self, path: Path) -> None:
        """Matches, and writes the file."""
        self.matched().write(path)


_NAMES = tuple(field.name for field in fields(Matches))


def _narrow(values: NDArray[Any]) -> NDArray[Any]:
    """The same in few bytes: flags as bits, eight detections a byte, other numbers in the least that holds them all."""
    if values.dtype == np.bool_:
        return np.packbits(values, axis=1)
    if values.dtype == np.float64:
        single = values.astype(np.float32)
        return single if (single == values).all() else values
    return values.astype(np.min_scalar_type(values.max(initial=0)))


def _widen(content: Mapping[str, NDArray[Any]]) -> Matches:
    scores = content["scores"].astype(np.float64)
    flags: dict[str, Any] = {
        name: np.unpackbits(content[name], axis=1, count=len(scores)).astype(np.bool_)
        for name in ("matched", "ignored")
    }
    rest: dict[str, Any] = {name: content[name].astype(np.int64) for name in _NAMES if name not in (*flags, "scores")}
    return Matches(scores=scores, **flags, **rest)
