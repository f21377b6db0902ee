"""What the windows of an image have found, put together: one box for each object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Found:
    """Boxes of one or several windows, in pixels of the original image.

    Attributes:
        boxes: (N, 4) float32 xyxy.
        scores: (N,) float32 in 0..1.
        labels: (N,) int64.
        windows: (N,) int64 number of the window that each was found in.
        cut: (N,) bool, whether it ends at a border of its window inside the image.
        masks: N run-length masks of the size of the image, or none.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    windows: NDArray[np.int64]
    cut: NDArray[np.bool_]
    masks: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def together(cls, parts: Sequence["Found"]) -> "Found":
        """All boxes, in the order of the windows."""
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.windows for part in parts]),
            np.concatenate([part.cut for part in parts]),
            [mask for part in parts for mask in part.masks],
        )

    def chosen(self, places: NDArray[np.int64]) -> "Found":
        """Some of them, in a new order."""
        masks = [self.masks[place] for place in places.tolist()] if self.masks else []
        return Found(
            self.boxes[places], self.scores[places], self.labels[places], self.windows[places], self.cut[places], masks
        )


class _Groups:
    """Boxes of one class that stand for one object each, in the order in which they came."""

    def __init__(self, most: int) -> None:
        self.count = 0
        self.boxes = np.empty((most, 4), np.float64)
        self.members: list[list[int]] = []

    def overlapping(self, box: NDArray[np.float64], share_of_own: bool, least: float) -> list[int]:
        """Groups that overlap a box by more than a share, most first: IoU, or the share of the box's own area."""
        boxes = self.boxes[: self.count]
        sides = (np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])).clip(0)
        common, own = sides[:, 0] * sides[:, 1], float((box[2:] - box[:2]).prod())
        total = own if share_of_own else own + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - common
        found = np.flatnonzero(common > least * total)
        share = (common / np.maximum(total, np.finfo(np.float64).tiny))[found]
        return [int(place) for place in found[np.argsort(-share, kind="stable")]]

    def begin(self, place: int, box: NDArray[np.float64]) -> None:
        """A box that is no group's."""
        self.boxes[self.count] = box
        self.members.append([place])
        self.count += 1


def merge(found: Found, least: float, fuse: bool) -> Found:
    """Makes one box of those that several windows have found of one object.

    Boxes of a class come in the order of their scores, those that a window's border has cut last. Each joins the group
    that it overlaps most, unless its own window is in that already. Of a group the first box remains; or, where they
    are fused, the mean of its uncut boxes, weighted by their scores, with the mean of their scores. Whoever is alone
    stays as it is, to the bit.

    Args:
        found: What all windows have found.
        least: IoU above which boxes of different windows are of the same object; of a cut box, share of its area.
        fuse: Take the mean of a group, instead of its first box.

    Returns:
        The boxes by decreasing scores; those of equal score in the order of the windows.
    """
    boxes, scores = found.boxes.copy(), found.scores.copy()
    kept: list[int] = []
    for label in np.unique(found.labels):
        own = np.flatnonzero(found.labels == label)
        order = own[np.lexsort((-found.scores[own], found.cut[own]))]
        groups = _grouped(found, order, least, fuse)
        for position, members in enumerate(groups.members):
            kept.append(members[0])
            if fuse and len(members) > 1:
                boxes[members[0]] = groups.boxes[position]
                scores[members[0]] = found.scores[members].mean(dtype=np.float64)
    places = np.sort(np.array(kept, np.int64))
    merged = Found(boxes, scores, found.labels, found.windows, found.cut, found.masks)
    return merged.chosen(places[np.argsort(-scores[places], kind="stable")])


def _grouped(found: Found, order: NDArray[np.int64], least: float, fuse: bool) -> _Groups:
    groups = _Groups(len(order))
    for place in order.tolist():
        box, is_cut = found.boxes[place].astype(np.float64), bool(found.cut[place])
        rivals = groups.overlapping(box, is_cut, least)
        joined = next((group for group in rivals if not _has(found, groups.members[group], place)), None)
        if joined is None:
            groups.begin(place, box)
        elif fuse and not is_cut:
            members = groups.members[joined]
            members.append(place)
            scores = found.scores[members]
            weights = scores if scores.any() else None  # all of them 0 weigh the same
            groups.boxes[joined] = np.average(found.boxes[members].astype(np.float64), 0, weights)
    return groups


def _has(found: Found, members: list[int], place: int) -> bool:
    """Whether one of a group is of the same window."""
    return bool((found.windows[members] == found.windows[place]).any())
