"""The contract of a segmentor."""

from abc import abstractmethod
from collections.abc import Callable

from torch import Tensor

from backbones import Backbone
from tasks.batch import Batch
from tasks.class_tensors import DenseModel
from tasks.losses import Losses

LabelMaps = list[Tensor]


class Segmentor(DenseModel):
    """A model from batches to losses (in training) or to label maps (in evaluation).

    The batch is the one of `datamodules.LabelMasks`. Losses are named scalars whose sum is minimised, with numbers
    beside them that are only logged. Label maps are one int64 tensor (H_i, W_i) of classes 0..K-1 per image, at the
    image's original resolution.
    """

    @abstractmethod
    def forward(self, batch: Batch) -> Losses | LabelMaps:
        """Computes losses in training mode, label maps otherwise."""


SegmentorBuilder = Callable[[Backbone, int], Segmentor]
"""Builds a segmentor from a backbone and the number of classes."""
