"""Semantic segmentation metric: mIoU, mAcc, aAcc and IoU per class from integer confusion matrices of the images.

Counts are summed over the data set and divided once; nothing is averaged over batches or processes, so the result
depends on neither.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tasks.metrics.image_areas import ImageAreas, join
from tasks.metrics.over_processes import gathered, summed


class SegmentationMetric:
    """Counts pixels with ``update``, divides once with ``compute``.

    An image given twice counts twice: the caller removes duplicates (sampler padding) before ``update``.

    Args:
        class_names: K distinct names; position is the label.
        ignore_index: Target value of pixels that do not count, in -256..65535 (it sets the size of a table).

    Attributes:
        scores: Those of `ImageAreas.scores`.
        class_scores: "IoU/<class>" of every class.
        confusion: int64 (K, K) on the CPU, pixels of this process; rows are ground truth, columns prediction.

    Raises:
        ValueError: No class names, repeated class names, or ``ignore_index`` out of range.
    """

    scores = ("mIoU", "mAcc", "aAcc", "mIoU_image", "mIoU_class", "mIoU_worst", "classes", "images")

    def __init__(self, class_names: Sequence[str], ignore_index: int = 255) -> None:
        self.class_names = tuple(class_names)
        if not self.class_names or len(set(self.class_names)) != len(self.class_names):
            raise ValueError(f"class_names must be at least one and all different, got {self.class_names}")
        if not -256 <= ignore_index <= 65535:
            raise ValueError(f"ignore_index must be in -256..65535, got {ignore_index}")
        self.ignore_index = ignore_index
        self.class_scores = [f"IoU/{name}" for name in self.class_names]
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        num_classes = len(self.class_names)
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device="cpu")
        self._tables: list[Tensor] = []  # (3, K) of every image

    def update(self, predictions: list[Tensor], targets: list[Tensor]) -> None:
        """Counts the pixels of some images.

        Args:
            predictions: One (H, W) integer map per image at original size, values 0..K-1, on any device.
            targets: As many (H, W) integer maps, values 0..K-1 or ``ignore_index``.

        Raises:
            ValueError: Numbers or shapes of maps differ, a map is not integer, or a value is out of range. No image of
                the call is counted then.
        """
        if len(predictions) != len(targets):
            raise ValueError(f"got {len(predictions)} predictions for {len(targets)} targets")
        counts = [self._count(prediction, target) for prediction, target in zip(predictions, targets, strict=True)]
        for count in counts:
            # Not in place: a matrix made in inference mode (Lightning's validation) cannot be changed outside of it.
            self.confusion = self.confusion + count
            self._tables.append(torch.stack([count.diagonal(), count.sum(dim=1), count.sum(dim=0)]))

    def compute(self) -> dict[str, float]:
        """Scores all images of all processes; in a distributed run every process must call it.

        Returns:
            ``scores`` and ``class_scores``, IoU and accuracies in 0..1. The IoU of a class in neither ground truth nor
            prediction is nan, and the mean leaves it out. Without a pixel all are nan.
        """
        areas = self.image_areas()
        return areas.scores() | dict(zip(self.class_scores, areas.class_iou().tolist(), strict=True))

    def total_confusion(self) -> Tensor:
        """`confusion` of all processes; a collective call in a distributed run."""
        return summed(self.confusion)

    def image_areas(self) -> ImageAreas:
        """Areas of the classes in every image of all processes; a collective call in a distributed run."""
        num_classes = len(self.class_names)
        own = torch.stack(self._tables, dim=1) if self._tables else torch.zeros(3, 0, num_classes, dtype=torch.int64)
        return join([ImageAreas(*part) for part in gathered(own.numpy().astype(np.int64))], num_classes)

    def _count(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Confusion matrix (K, K) of one image on the CPU."""
        num_classes, ignore = len(self.class_names), self.ignore_index
        if prediction.shape != target.shape or prediction.ndim != 2 or prediction.numel() == 0:
            raise ValueError(
                f"prediction and target must be (H, W) of the same size, got {tuple(prediction.shape)} and "
                f"{tuple(target.shape)}"
            )
        for name, labels in (("prediction", prediction), ("target", target)):
            if labels.is_floating_point() or labels.is_complex():
                raise ValueError(f"{name} must hold integer labels, got {labels.dtype}")
        prediction, target = _with_arithmetic(prediction), _with_arithmetic(target.to(prediction.device))
        allowed = f"0..{num_classes - 1}"
        _check_range(prediction, 0, num_classes - 1, f"prediction must be in {allowed}")
        lowest, highest = min(0, ignore), max(num_classes - 1, ignore)
        _check_range(target, lowest, highest, f"target must be in {allowed} or {ignore} (ignore)")

        # One cell per (target, prediction), the ignored target included: cutting its row off afterwards is many times
        # cheaper than masking its pixels out.
        rows = highest - lowest + 1
        dtype = torch.int32 if rows * num_classes < 2**31 else torch.int64  # half the bytes, a third of the time
        cell = prediction.to(dtype, copy=True).add_(target.to(dtype), alpha=num_classes)
        if lowest:
            cell -= lowest * num_classes
        table = torch.bincount(cell.flatten(), minlength=rows * num_classes).cpu().reshape(rows, num_classes)
        table[ignore - lowest] = 0
        rest = table.sum(dim=1)
        rest[-lowest : num_classes - lowest] = 0
        if rest.any():
            value = int(rest.nonzero()[0]) + lowest
            raise ValueError(f"target must be in {allowed} or {ignore} (ignore), got {value}")
        return table[-lowest : num_classes - lowest]


def _with_arithmetic(labels: Tensor) -> Tensor:
    """Labels in a type that has a minimum, which bool and the larger unsigned types have not."""
    has = labels.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    return labels if has else labels.long()


def _check_range(labels: Tensor, lowest: int, highest: int, rule: str) -> None:
    least, greatest = (int(value) for value in torch.aminmax(labels))
    if least < lowest or greatest > highest:
        raise ValueError(f"{rule}, got {least if least < lowest else greatest}")
