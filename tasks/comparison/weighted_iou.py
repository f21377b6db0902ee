"""mIoU of any resample of the images, exactly: areas of classes are summed with the weights and divided once."""

import numpy as np
from numpy.typing import NDArray


class WeightedIoU:
    """IoU of every class as a function of the images' weights.

        IoU_c(w) = sum_i w_i I_ic / sum_i w_i U_ic

    Args:
        intersection: (I, K) integers, pixels of each image that have the class in ground truth and prediction.
        union: (I, K) integers, pixels that have it in one of them.
    """

    def __init__(self, intersection: NDArray[np.integer], union: NDArray[np.integer]) -> None:
        self.num_images = len(union)
        self._areas = np.concatenate([intersection, union], axis=1).astype(np.float64)  # exact, and added quickly

    def scores(self, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """(1 + K,) mIoU, then the IoU of each class; nan of a class that none of the images has.

        Args:
            weights: (I,) how often each image counts.
        """
        intersection, union = np.split(weights @ self._areas, 2)
        iou = np.divide(intersection, union, out=np.full(len(union), np.nan), where=union > 0)
        defined = iou[~np.isnan(iou)]
        return np.append(defined.mean() if len(defined) else np.nan, iou)
