"""The contract of a segmentor."""

from abc import abstractmethod
from collections.abc import Callable

from torch import Tensor

from backbones import Backbone
from tasks.batch import Batch
from tasks.class_tensors import DenseModel
from tasks.losses import Losses

LabelMaps = list[Tensor]
SeeImage = Callable[[int], Callable[[Tensor], None] | None]
"""Gives what wants to see the probabilities (n, W, K) of an image of a batch, some rows at a time, if anything does."""


class Segmentor(DenseModel):
    """A model from batches to losses (in training) or to label maps (in evaluation).

    The batch is the one of `datamodules.LabelMasks`. Losses are named scalars whose sum is minimised, with numbers
    beside them that are only logged. Label maps are one tensor (H_i, W_i) of classes 0..K-1 per image, at the image's
    original resolution, uint8 or, above 254 classes, int16.
    """

    @abstractmethod
    def forward(self, batch: Batch) -> Losses | LabelMaps:
        """Computes losses in training mode, label maps otherwise."""

    @abstractmethod
    def label_maps(self, batch: Batch, see: SeeImage | None = None) -> LabelMaps:
        """Predicts in evaluation mode.

        Args:
            batch: Images.
            see: Is shown the probabilities behind the labels.
        """


SegmentorBuilder = Callable[[Backbone, int], Segmentor]
"""Builds a segmentor from a backbone and the number of classes."""
