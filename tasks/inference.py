"""Trained models in Python: `tasks.load(checkpoint).predict(image)`.

The same data module reads and prepares the images, and the same `predict_step` finds, as in `predict` on the command
line, so the numbers are the same to the last bit on the same device, with as many images at once. Beside the command
lines, this is where data modules and models meet.
"""

from abc import abstractmethod
from argparse import ArgumentError
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from datamodules import VisionDataModule
from datamodules.given_images import GivenImage, GivenImages, as_several, is_one
from datamodules.sampling import SampleKey
from tasks.base import VisionTask
from tasks.batch import Batch
from tasks.changed_options import with_options
from tasks.command_line import helpful_output, without_subnormals
from tasks.detection import DetectionTask
from tasks.errors import TaskError
from tasks.precision import EVALUATES, no_precision
from tasks.predicted import FoundObjects, LabelMap
from tasks.run.checkpoint_files import BEST, CHECKPOINTS
from tasks.same_network import require_same_network
from tasks.saved_data import build_data, reason_of, saved_data
from tasks.segmentation import SegmentationTask
from tasks.task_options import build_options, saved_options
from tasks.weights import arguments_without_weights, verify_checkpoint

Found = TypeVar("Found", FoundObjects, LabelMap)
KINDS: dict[str, tuple[str, type[DetectionTask] | type[SegmentationTask]]] = {
    "detector": ("detect", DetectionTask),
    "segmentor": ("segment", SegmentationTask),
}
"""Tasks by the option that only theirs have."""


class Predictor(Generic[Found]):
    """A trained model that takes images and gives what it finds in them.

    Args:
        task: The task, with its weights.
        data: The data module, which reads and prepares images. Its data set is not needed.
        device: `auto` takes a GPU where there is one; `cpu`, `cuda`, `cuda:1`, or the number of a GPU.
        batch_size: Images that the network sees at once. They are padded to one size, which can change numbers
            (docs/pitfalls.md). Default: `val_batch_size` of the data module, as on the command line.
        precision: `--trainer.precision` of the command line.
    """

    def __init__(
        self,
        task: VisionTask,
        data: VisionDataModule,
        device: str | int | torch.device = "auto",
        batch_size: int | None = None,
        precision: str = "32-true",
    ) -> None:
        if str(precision) not in EVALUATES:
            raise TaskError(no_precision(precision, "precision"))
        if batch_size is not None and not (isinstance(batch_size, int) and batch_size > 0):
            raise TaskError(f"batch_size is {batch_size!r}, expected a whole number of images, at least 1")
        self.task, self.data, self.batch_size = task, data, batch_size or data.val_batch_size
        self.read_file = data.read_image
        with helpful_output():
            self.fabric = _fabric(device, precision)
            self.fabric.setup_module(task.eval())

    @property
    def class_names(self) -> list[str]:
        """Names of the classes 0..K-1."""
        return self.task.class_names

    @overload
    def predict(self, images: GivenImage) -> Found: ...  # type: ignore[overload-overlap]  # a text is iterable, too

    @overload
    def predict(self, images: Iterable[GivenImage]) -> list[Found]: ...

    def predict(self, images: GivenImage | Iterable[GivenImage]) -> Found | list[Found]:
        """Finds what is in one image, or in each of several.

        Args:
            images: A path, a picture of Pillow's, an array of uint8, (H, W, 3) red first or (H, W) grey; or any
                iterable of them.

        Returns:
            What is in the image, or a list of it.

        Raises:
            DataError: An image cannot be read, or is none.
        """
        found = list(self.each(images))
        return found[0] if is_one(images) else found

    def each(self, images: GivenImage | Iterable[GivenImage]) -> Iterator[Found]:
        """As `predict`, one image after the other: no more than a batch of them is held in memory.

        Raises:
            DataError: An image cannot be read, or is none.
        """
        remaining, done = iter(as_several(images)), 0
        while group := list(islice(remaining, self.batch_size)):
            yield from self._of_batch(group, done)
            done += len(group)

    def _of_batch(self, images: Sequence[GivenImage], first: int) -> Iterator[Found]:
        data = self.data
        given = GivenImages(images, first, self.read_file, data.orientation, data.largest_grey)
        data.read_image = given
        dataset = data.image_dataset(given.paths)
        samples = [dataset[SampleKey(0, place, False)] for place in range(len(images))]
        batch = self.fabric.to_device(data.collate(samples, training=False))
        with torch.inference_mode(), without_subnormals(), self.fabric.autocast():
            found = self._predict(batch)
        for place, path in enumerate(given.paths):
            height, width = batch["targets"][place]["original_size"].tolist()
            yield self._result(found, place, image=str(path), size=(height, width), read_pixels=partial(given, path))

    def _predict(self, batch: Batch) -> Any:
        return self.task.predict_step(batch, 0)

    @abstractmethod
    def _result(self, found: Any, place: int, **facts: Any) -> Found:
        """What was found in one image of a batch."""


class DetectionPredictor(Predictor[FoundObjects]):
    """A trained detector; `predict` gives `FoundObjects`."""

    def _result(self, found: Any, place: int, **facts: Any) -> FoundObjects:
        boxes, labels, scores = (_ordinary(found[place][name]) for name in ("boxes", "labels", "scores"))
        masks = found[place].get("masks")
        names = self.class_names
        return FoundObjects(boxes=boxes, labels=labels, scores=scores, class_names=names, encoded_masks=masks, **facts)


class SegmentationPredictor(Predictor[LabelMap]):
    """A trained segmentor; `predict` gives a `LabelMap`.

    Attributes:
        probabilities: Give probabilities, too: H x W x K numbers of four bytes for each image.
    """

    probabilities: bool = False

    def _predict(self, batch: Batch) -> Any:
        assert isinstance(self.task, SegmentationTask)
        bands: list[list[Tensor]] = [[] for _ in batch["targets"]]
        self.task.see = (lambda _, place: lambda rows: bands[place].append(rows.cpu())) if self.probabilities else None
        return list(zip(super()._predict(batch), bands, strict=True))

    def _result(self, found: Any, place: int, **facts: Any) -> LabelMap:
        labels, bands = found[place]
        probabilities = _ordinary(torch.cat(bands)) if bands else None
        palette = getattr(self.data, "class_colours", None)
        names = self.class_names
        return LabelMap(
            labels=_ordinary(labels), class_names=names, probabilities=probabilities, palette=palette, **facts
        )


def load(
    checkpoint: str | Path,
    task: VisionTask | None = None,
    data: VisionDataModule | None = None,
    device: str | int | torch.device = "auto",
    batch_size: int | None = None,
    precision: str = "32-true",
    probabilities: bool = False,
    options: Mapping[str, object] | None = None,
) -> Any:
    """Loads a trained model, from its checkpoint alone.

    Args:
        checkpoint: A run's `best.ckpt` or `last.ckpt`, wherever it lies; or a run folder, for its `best.ckpt`.
        task: The task that the weights belong to, where it was made of objects in Python: a checkpoint keeps classes
            and arguments, and no objects.
        data: The data module that it was trained with, where the checkpoint does not say it; or another one, to read
            images otherwise.
        device: `auto` takes a GPU where there is one; `cpu`, `cuda`, `cuda:1`, or the number of a GPU.
        batch_size: Images that the network sees at once. Default: `val_batch_size` of the run.
        precision: `--trainer.precision` of the command line.
        probabilities: Of a segmentor: give probabilities, too. As with `--writer.probability_bits`, labels are then
            read off them, where two classes may be equal that differ before the softmax.
        options: Options of the command line that change no weight, by their names: windows for images far larger than
            the network, `{"model.windows.size": 640, "data.pipeline.test_scale": 1}`, thresholds, sliding inference,
            and all of data. Not with `task` or `data`, which have their options.

    Returns:
        A `DetectionPredictor` or a `SegmentationPredictor`.

    Raises:
        TaskError: The file is no checkpoint, is damaged, or lacks what `task` or `data` is for; an option cannot be
            chosen for a trained model.
    """
    for name, given, kind in (("task", task, VisionTask), ("data", data, VisionDataModule)):
        if given is not None and not isinstance(given, kind):
            raise TaskError(f"{name} is {given!r:.80}, expected a {kind.__name__}, made already")
    if options and (task is not None or data is not None):
        raise TaskError(
            f"options ({', '.join(options)}) go with a checkpoint alone; give them to the task and the data module"
        )
    path = _checkpoint_file(checkpoint)
    content = verify_checkpoint(path)
    with isolate_rng(include_cuda=False), helpful_output():
        changed = None
        if task is None:
            task, changed = _built(content, path, options or {})
        data = data or build_data(changed or saved_data(content, path), path, task.class_names)
    require_same_network(task, content, continues=False)
    task.load_state_dict(content["state_dict"])
    if isinstance(task, DetectionTask):
        if probabilities:
            raise TaskError("probabilities=True is for segmentors; a detector gives scores")
        return DetectionPredictor(task, data, device, batch_size, precision)
    predictor = SegmentationPredictor(task, data, device, batch_size, precision)
    predictor.probabilities = probabilities
    return predictor


def _built(
    content: dict[str, Any], path: Path, changes: Mapping[str, object]
) -> tuple[VisionTask, dict[str, Any] | None]:
    """The task of a checkpoint, as its run has built it, but not compiled, and whatever metric its headline was of.

    Returns:
        The task, and what its data module is where there are changes.
    """
    options = content.get("hyper_parameters", {})
    owner = next((owner for option, owner in KINDS.items() if option in options), None)
    if owner is None or "backbone" not in options:
        raise TaskError(
            f"{path} holds the weights of a task that was made of objects in Python; build it again, and give it: "
            "tasks.load(checkpoint, task=...)"
        )
    name, kind = owner
    data: dict[str, Any] | None = None
    saved = saved_options(content, path, kind.options_class)
    if changes:
        model, data = with_options(path, name, changes)
        saved |= model
    plain = saved | arguments_without_weights(saved) | {"compile_backbone": False, "headline": None}
    try:
        built: Any = build_options(kind.options_class, plain)
    except (ValueError, TypeError, ArgumentError) as error:
        raise TaskError(f"{path}: its model cannot be built: {reason_of(error)}") from error
    return kind(built), data


def _checkpoint_file(given: str | Path) -> Path:
    if not isinstance(given, str | Path):
        raise TaskError(f"checkpoint is {given!r:.80}, expected the path of a file such as RUN/checkpoints/best.ckpt")
    path = Path(given).expanduser()
    return path / CHECKPOINTS / BEST if (path / CHECKPOINTS / BEST).is_file() else path


def _ordinary(tensor: Tensor) -> Tensor:
    """A tensor on the CPU that may be changed in place, and taken into gradients, unlike those of inference."""
    return tensor.cpu().clone()


def _fabric(device: str | int | torch.device, precision: str) -> Fabric:
    """Where and in which numbers the network computes: Lightning's own, as in the trainer."""
    name, _, number = (f"cuda:{device}" if isinstance(device, int) else str(device)).partition(":")
    try:
        return Fabric(accelerator=name, devices=[int(number)] if number else 1, precision=precision)
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise TaskError(f"device is {device!r}, expected auto, cpu, or a GPU of this machine such as cuda:0") from error
