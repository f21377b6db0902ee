"""Image records as a handful of arrays, for the way from one process to another.

Pickled one by one, the records of val2017 would be half a million small objects; joined they are six arrays and two
strings, which pickle as they lie in memory.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.metrics.packed_images import DETECTION, GROUND_TRUTH, ImageRecord


@dataclass(frozen=True, eq=False)
class JoinedRecords:
    """N image records.

    Attributes:
        image_ids: N identities. A list, because they may have any size.
        images: (N, 4) int64: height, width, number of detections, number of annotations.
        detections: All detections, image by image.
        ground_truths: All annotations, image by image.
        detection_masks: All masks of detections and the length of each; no lengths for boxes.
        ground_truth_masks: The same of annotations.
    """

    image_ids: list[int]
    images: NDArray[np.int64]
    detections: NDArray[np.void]
    ground_truths: NDArray[np.void]
    detection_masks: tuple[bytes, NDArray[np.int32]]
    ground_truth_masks: tuple[bytes, NDArray[np.int32]]


def join(records: Sequence[ImageRecord]) -> JoinedRecords:
    """Lays records end to end."""
    images = [(*record.size, len(record.detections), len(record.ground_truths)) for record in records]
    return JoinedRecords(
        [record.image_id for record in records],
        np.array(images, np.int64).reshape(-1, 4),
        np.concatenate([np.empty(0, DETECTION), *(record.detections for record in records)]),
        np.concatenate([np.empty(0, GROUND_TRUTH), *(record.ground_truths for record in records)]),
        _join_masks(mask for record in records for mask in record.detection_masks),
        _join_masks(mask for record in records for mask in record.ground_truth_masks),
    )


def split(joined: JoinedRecords) -> list[ImageRecord]:
    """The records again; their arrays are views."""
    height, width, found, annotated = joined.images.T.tolist() if len(joined.images) else ([], [], [], [])
    sizes = zip(height, width, strict=True)
    return [
        ImageRecord(*fields)
        for fields in zip(
            joined.image_ids,
            sizes,
            _parts(joined.detections, found),
            _parts(joined.ground_truths, annotated),
            _parts(_split_masks(*joined.detection_masks), found),
            _parts(_split_masks(*joined.ground_truth_masks), annotated),
            strict=True,
        )
    ]


def _join_masks(masks: Iterable[bytes]) -> tuple[bytes, NDArray[np.int32]]:
    in_order = tuple(masks)
    return b"".join(in_order), np.fromiter(map(len, in_order), np.int32, len(in_order))


def _split_masks(text: bytes, lengths: NDArray[np.int32]) -> tuple[bytes, ...]:
    return tuple(_parts(text, lengths.tolist()))


def _parts(whole: Any, lengths: Sequence[int]) -> list[Any]:
    """Consecutive slices; of an empty ``whole`` (boxes have no masks) all are empty."""
    return [whole[start:stop] for start, stop in pairwise(accumulate(lengths, initial=0))]
