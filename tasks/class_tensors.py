"""Which tensors of a model hold something for each class, and where, so that weights are taken over by class names."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backbones import Backbone


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

    def take_over(self, own: Tensor, found: Tensor, rows: dict[int, int]) -> Tensor:
        """A copy of a tensor with the rows of some classes, and of the background, from another one.

        Args:
            own: The tensor as it is.
            found: The same tensor of a model with other classes.
            rows: Class in `own` -> the same class in `found`.
        """
        result = own.clone()
        into, source = self._blocks_first(result), self._blocks_first(found)
        first = self.background if self.background_first else 0
        if self.background:
            others = slice(first) if self.background_first else slice(-self.background, None)
            into[:, others] = source[:, others]
        for new, old in rows.items():
            into[:, first + new] = source[:, first + old]
        return result

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
    def class_tensors(self) -> dict[str, ClassRows | None]:
        """Every entry of `state_dict()` whose shape depends on the number of classes, and where its classes lie.

        `--model.weights` takes over the classes of another run by their names with it. None stands for an entry in
        which the classes cannot be told apart: it starts anew where the classes are not the same ones in the same
        order. A new detector or segmentor that leaves an entry out fails in `tests/tasks/test_weights.py`.
        """
