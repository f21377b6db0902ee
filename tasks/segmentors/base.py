"""The contract of a segmentor."""

from abc import abstractmethod
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

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

    def windows(self, height: int, width: int) -> list[tuple[slice, slice]]:
        """Rows and columns of an image that are seen at once: all of them."""
        return [(slice(0, height), slice(0, width))]

    def as_training(self, batch: Batch, position: int) -> list[Batch]:
        """The windows of the image, without padding; its mask is resized to it as in training, without new values."""
        height, width = batch["size"][position].tolist()
        image, mask = batch["image"][position : position + 1, :, :height, :width], batch["mask"][position]
        labels = functional.interpolate(mask[None, None].float(), (height, width), mode="nearest-exact")[0].to(mask)
        return [
            {
                "image": image[..., rows, columns],
                "size": batch["size"].new_tensor([[rows.stop - rows.start, columns.stop - columns.start]]),
                "mask": labels[:, rows, columns],
                "targets": [batch["targets"][position]],
            }
            for rows, columns in self.windows(height, width)
        ]

    @abstractmethod
    def label_maps(self, batch: Batch, see: SeeImage | None = None) -> LabelMaps:
        """Predicts in evaluation mode.

        Args:
            batch: Images.
            see: Is shown the probabilities behind the labels.
        """


SegmentorBuilder = Callable[[Backbone, int], Segmentor]
"""Builds a segmentor from a backbone and the number of classes."""
