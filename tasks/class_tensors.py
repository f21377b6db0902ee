"""Which tensors of a model hold something for each class, and where, so that weights are taken over by class names."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backbones import Backbone
from tasks.batch import Batch


@dataclass(frozen=True)
class ClassRows:
    """Where a tensor holds its classes: along one axis, in equal blocks of rows, one row a class.

    For K classes the axis has `blocks * (background + K) * width` rows. The classifier of RetinaNet with 9 anchors a
    location is `ClassRows(blocks=9)`: all classes of the first anchor, then all of the second; one with a background
    class in front of the others is `ClassRows(background=1)`; a regressor of four numbers for each class
    `ClassRows(width=4)`.

    Attributes:
        axis: Axis of the tensor along which the classes lie.
        blocks: How often all classes follow each other.
        background: Classes in every block that belong to no class of the data set.
        background_first: Whether these come before class 0, or behind the last class.
        width: Neighbouring rows of each class.
    """

    axis: int = 0
    blocks: int = 1
    background: int = 0
    background_first: bool = True
    width: int = 1

    def shape(self, tensor: Tensor, num_classes: int) -> torch.Size:
        """The shape that a tensor has for another number of classes."""
        shape = list(tensor.shape)
        shape[self.axis] = self.blocks * (self.background + num_classes) * self.width
        return torch.Size(shape)

    def take_over(self, own: Tensor, found: Tensor, rows: dict[int, int], layout: "ClassRows | None" = None) -> Tensor:
        """A copy of a tensor with the rows of some classes, and of the background, from another one.

        Args:
            own: The tensor as it is.
            found: The same tensor of a model with other classes.
            rows: Class in `own` -> the same class in `found`.
            layout: Where `found` holds its classes; None for the same places. It may have the background elsewhere, or
                none, whose rows then stay as they are.
        """
        result, layout = own.clone(), layout or self
        into, source = self._blocks_first(result), layout._blocks_first(found)
        if self.background and layout.background:
            into[:, self._background_rows] = source[:, layout._background_rows]
        for new, old in rows.items():
            into[:, self._first + new] = source[:, layout._first + old]
        return result

    @property
    def _first(self) -> int:
        """Row of class 0 in a block."""
        return self.background if self.background_first else 0

    @property
    def _background_rows(self) -> slice:
        return slice(self.background) if self.background_first else slice(-self.background, None)

    def _blocks_first(self, tensor: Tensor) -> Tensor:
        """A view (blocks, background + K, width, ...) of a tensor."""
        return tensor.movedim(self.axis, 0).unflatten(0, (self.blocks, -1, self.width))


class DenseModel(nn.Module, ABC):
    """What detectors and segmentors share: a backbone, and tensors that hold something for each class.

    Attributes:
        backbone: The network under the head.
    """

    backbone: Backbone

    @abstractmethod
    def as_training(self, batch: Batch, position: int) -> list[Batch]:
        """What training would see of an image of a validation batch: batches of it, whose losses are averaged.

        Raises:
            TaskError: The batch lacks what losses need.
        """

    def loss_modules(self) -> list[nn.Module]:
        """The modules that choose by their own `training` between losses, or what losses are made of, and predictions.

        None of them may draw by it, as dropout does, or gather statistics.
        """
        return [self]

    @abstractmethod
    def class_tensors(self) -> dict[str, ClassRows | None]:
        """Every entry of `state_dict()` whose shape depends on the number of classes, and where its classes lie.

        `--model.weights` takes over the classes of another run by their names with it. None stands for an entry in
        which the classes cannot be told apart: it starts anew where the classes are not the same ones in the same
        order. A new detector or segmentor that leaves an entry out fails in `tests/tasks/test_weights.py`.
        """
