"""What published weights of whole models have in common, whatever library they come from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tasks.class_tensors import ClassRows, DenseModel


@dataclass(frozen=True)
class PublishedWeights(ABC):
    """Weights of a model of another library.

    Attributes:
        library: `torchvision`, `MMDetection` or `MMSegmentation`.
        model: The class of ours that computes the same.
        entries: Under the names of ours; those of the backbone begin with `backbone.` and keep their layout.
        outputs: Outputs of the classifier for a location, box or pixel, background included.
        class_names: Names of the classes by their places in `class_rows`, empty for outputs without a class; no names
            where the file tells none.
        class_rows: Where entries hold the classes, if that is elsewhere than in the model.
    """

    library: str
    model: type[DenseModel]
    entries: dict[str, Tensor]
    outputs: int
    class_names: list[str]
    class_rows: dict[str, ClassRows]

    @property
    @abstractmethod
    def name(self) -> str:
        """What the model is called."""

    @property
    def title(self) -> str:
        """What the file holds, in a few words."""
        names = "" if self.class_names else " without names of classes"
        return f"{self.library}'s {self.name}, {self.outputs} outputs{names}"

    @property
    def category_ids(self) -> list[int] | None:
        """COCO's ids of the classes that have names, or None if these are not COCO's."""
        return None

    @abstractmethod
    def missing_options(self, model: DenseModel) -> dict[str, object]:
        """Options of the command line, such as `--model.detector.channels`, that a model needs to compute the same.

        Args:
            model: A model of the same kind, detector or segmentor.
        """


def names_in_meta(meta: Mapping[str, Any], count: int) -> list[str]:
    """Names of classes that a training script of OpenMMLab has written beside the weights, if there are so many."""
    facts = meta.get("dataset_meta")
    facts = meta if not isinstance(facts, Mapping) else {name.upper(): value for name, value in facts.items()}
    names = facts.get("CLASSES")
    return list(map(str, names)) if isinstance(names, list | tuple) and len(names) == count else []
