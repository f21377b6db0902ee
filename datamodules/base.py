"""What all data modules share: loaders that give the same samples for any number of workers, and resume exactly."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset

from datamodules.decoded import KeptDecoded
from datamodules.described import describe
from datamodules.epoch_plan import StepLayout
from datamodules.epoch_progress import EpochProgress
from datamodules.errors import DataError
from datamodules.findings import Severity
from datamodules.images import MAX_PIXELS, Orientation, ReadImage, list_images, read_image
from datamodules.loader import QuietLoader, ResumableLoader, StepSampler
from datamodules.preflight.before_a_run import look_before
from datamodules.preflight.headers import has_large
from datamodules.preflight.report import Split, SplitReport
from datamodules.preflight.twins import ImageFiles
from datamodules.readable import ReadableOnly
from datamodules.room import on_disk_if_large
from datamodules.sampling import KeySampler, SampleKey
from datamodules.shared_memory import check_shared_memory
from datamodules.substitutes import Losses, Substituted
from datamodules.tiles import TileGrid
from datamodules.workers import start_worker


class VisionDataModule(pl.LightningDataModule, ABC):
    """Builds the loaders of training, validation, test and prediction from datasets that a subclass names.

    Its state in a checkpoint is the images that the epoch in progress has seen (`EpochProgress`): a resumed run trains
    on each of the others once, also with another batch size, number of processes or grouping.

    Args:
        batch_size: Training images per process and step.
        val_batch_size: Validation images per process and step. With images of different sizes, 1 keeps the padding,
            and so the scores, independent of which images come together.
        num_workers: Loader processes per training process; 0 loads in the training process.
        max_images: Use only the first images of each split, to try things out or to overfit.
        images: Image, folder or glob that `predict` runs on, instead of the validation split. It goes on past those
            that cannot be read, counts them at the end, and ends with the exit code of a mistake.
        class_names: Names of the classes 0..K-1 that the model knows. The classes of the data set are matched to them
            by name. Default: the data set's own. `--ckpt_path` fills them in from the checkpoint.
        seed: Start of all random numbers of order and augmentation. The command line links it to `seed_everything`.
        follow_links: Read files through links that lead out of their folder; otherwise such a file is an error.
        orientation: What to do with a picture that EXIF wants turned, where the size of its annotations does not tell.
        max_pixels: Larger images are refused.
        largest_grey: Grey level of images of more than 8 bits that becomes 255. Default: the largest of the format.
        recursive: Take the images in the sub-folders of `images`, too.
        strict: Do not start where something of the data set is lost or doubtful, instead of saying so.
        on_corrupt: What a training image does that cannot be read: stop the run, or be left out, with a line for each,
            for another one that follows from the seed. Of validation it stops the run always: the score would lie.

    Attributes:
        bytes_per_pixel: Bytes of a training sample per pixel of its image.
        test_options: The options that give a test split.
        reports: What is known of the splits of the run; from `setup` on.
        losses: Counts the training samples that stand for others; none where a broken file stops the run.
    """

    bytes_per_pixel = 3
    test_options = "this data module has no such option"

    def __init__(
        self,
        batch_size: int,
        val_batch_size: int,
        num_workers: int,
        max_images: int | None,
        images: str | None,
        class_names: list[str] | None,
        seed: int,
        follow_links: bool = True,
        orientation: Orientation = "stored",
        max_pixels: int = MAX_PIXELS,
        largest_grey: int | None = None,
        recursive: bool = False,
        strict: bool = False,
        on_corrupt: Literal["stop", "skip"] = "stop",
    ) -> None:
        super().__init__()
        _check_at_least(1, batch_size=batch_size, val_batch_size=val_batch_size, max_pixels=max_pixels)
        _check_at_least(1, largest_grey=1 if largest_grey is None else largest_grey)
        _check_at_least(0, num_workers=num_workers)
        if max_images is not None:
            _check_at_least(1, max_images=max_images)
        if class_names is not None and not 0 < len(class_names) == len(set(class_names)):
            raise DataError(f"class_names is {class_names}, expected one name or more, all different")
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.num_workers = num_workers
        self.max_images = max_images
        self.images = images
        self.seed = seed
        self.follow_links, self.recursive, self.orientation = follow_links, recursive, orientation
        self.max_pixels, self.largest_grey = max_pixels, largest_grey
        self.read_image: ReadImage = partial(
            read_image, orientation=orientation, max_pixels=max_pixels, largest_grey=largest_grey
        )
        self.strict, self.on_corrupt = strict, on_corrupt
        self.reports: list[SplitReport] = []
        self.losses = Losses() if on_corrupt == "skip" else None
        self._given_class_names = class_names
        self._progress = EpochProgress(self._trainer_epoch, self._trainer_steps)

    def __getstate__(self) -> dict[str, Any]:
        """Without the trainer: a worker that is not forked gets a copy, to collate with."""
        return self.__dict__ | {"trainer": None}

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, position = label."""
        return self._given_class_names or self.read_class_names()

    @abstractmethod
    def read_class_names(self) -> list[str]:
        """Reads the names of the classes from the data set, in its own order."""

    @abstractmethod
    def class_mapping(self) -> str | None:
        """One sentence where the data set read so far numbers its classes differently from the model, or None."""

    def convention(self) -> str | None:
        """One line on how the data set writes down its classes, where that is not the same in all data sets."""
        return None

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """Height and width of a typical network input, at which costs are counted."""

    @abstractmethod
    def train_dataset(self) -> "Dataset[Any]":
        """The training split, augmented."""

    @abstractmethod
    def val_dataset(self) -> "Dataset[Any]":
        """The validation split, not augmented, with ground truth at original resolution."""

    @abstractmethod
    def image_dataset(self, paths: list[Path]) -> "Dataset[Any]":
        """Images without annotations, prepared as in validation."""

    def test_dataset(self) -> "Dataset[Any] | None":
        """The test split, like `val_dataset`; none where none is given."""
        return None

    def sample_groups(self) -> list[int] | None:
        """Group of each training sample, where the samples of a step should be of one group."""
        return None

    def prediction_options(self) -> dict[str, Any]:
        """The arguments by which another one of this class predicts alike, where there is no data set.

        A subclass adds what it needs besides; what its constructor does not take is left out.
        """
        names = ("pipeline", "val_batch_size", "orientation", "max_pixels", "largest_grey")
        return {"root": ".", **{name: getattr(self, name) for name in names if hasattr(self, name)}}

    def for_prediction(self) -> dict[str, Any]:
        """What a checkpoint keeps of this data module: its class and `prediction_options`, as plain data.

        Raises:
            DataError: They are no plain data.
        """
        return describe(self, self.prediction_options())

    @abstractmethod
    def collate(self, samples: list[Any], training: bool) -> dict[str, Any]:
        """Makes a batch of samples."""

    def batch_of(self, keys: Sequence[SampleKey]) -> dict[str, Any]:
        """Makes a training batch again, from its `keys`."""
        dataset = self._training_samples()
        return self.collate([dataset[SampleKey(*key)] for key in keys], training=True)

    @abstractmethod
    def image_files(self, split: Split) -> ImageFiles:
        """The images of a split."""

    @abstractmethod
    def look_through(self, split: Split, whole: bool) -> SplitReport:
        """Looks for what of a split is lost or doubtful.

        Args:
            split: Which one.
            whole: Read every file; otherwise, where that was not done before, only some.
        """

    def severity_of_broken(self, split: Split) -> Severity:
        """How bad it is where a file of a split cannot be used."""
        return "warning" if split == "training" and self.on_corrupt == "skip" else "error"

    def setup(self, stage: str) -> None:
        """Looks through the splits, and whether the batches that the workers prefetch fit into shared memory.

        Not where a callback of the trainer says by an attribute `reads_no_data` that it ends the run before.

        Raises:
            DataError: Nothing sensible can be trained or scored, or batches do not fit.
        """
        if self.trainer and any(getattr(callback, "reads_no_data", False) for callback in self.trainer.callbacks):
            return
        self.reports = look_before(self, stage)
        batches = self.val_batch_size * self.sample_bytes(training=False)
        if stage == "fit":
            batches += self.batch_size * self.sample_bytes(training=True)
        processes = self.trainer.num_devices if self.trainer else 1
        check_shared_memory(int(batches), self.num_workers, processes)

    def sample_bytes(self, training: bool) -> float:
        """Bytes of a sample of a typical size."""
        height, width = self.image_size
        return self.bytes_per_pixel * height * width

    def _reader(self, training: bool, tiles: TileGrid | None) -> ReadImage:
        """Decodes the images of a split; those of tiles with copies on the disk, unless they are not wanted."""
        if not training:
            return self.evaluation_reader
        return KeptDecoded(self.read_image, self.decoding) if tiles and tiles.tiles.keep_decoded else self.read_image

    @property
    def evaluation_reader(self) -> ReadImage:
        """Decodes the images of evaluation, which may keep their size: large ones into a file."""
        return partial(self.read_image, room=on_disk_if_large)

    @property
    def decoding(self) -> str:
        """The options of the decoder, as text."""
        return repr((self.orientation, self.largest_grey))

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled training batches: what the epoch has not seen. In order, under `overfit_batches`."""
        dataset = self._training_samples()
        size, world_size = len(dataset), self._world_size  # type: ignore[arg-type]
        if size < self.batch_size * world_size:
            raise DataError(
                f"the training split has {size} images, fewer than batch_size {self.batch_size} x {world_size} "
                "processes; lower batch_size"
            )
        shuffled = not (self.trainer and self.trainer.overfit_batches)
        groups = self.sample_groups() if shuffled else None
        layout = StepLayout(size, self.batch_size, world_size, groups is not None, shuffled, self.seed)
        self._progress.lay_out(layout, groups, self._limited(layout.full_steps))
        steps = StepSampler(self._sampler(dataset, shuffled), self._progress, layout.full_steps)
        return ResumableLoader(dataset, steps, self.losses, **self._loader_options(training=True))

    def _training_samples(self) -> "Dataset[Any]":
        return self.train_dataset() if self.losses is None else Substituted(self.train_dataset(), self.seed)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation split in order."""
        return self._evaluation_loader(self.val_dataset())

    def test_dataloader(self) -> DataLoader[Any]:
        """The test split, or else the validation split: the public test splits have no annotations."""
        dataset = self.test_dataset()
        if dataset is None:
            rank_zero_info(f"no test split is given ({self.test_options}): test scores the validation split")
        return self._evaluation_loader(dataset or self.val_dataset())

    def predict_dataloader(self) -> DataLoader[Any]:
        """The given images, or else the validation split; what cannot be read is replaced (`ReadableOnly`)."""
        if self.images is None:
            return self._evaluation_loader(ReadableOnly(self.val_dataset()))
        paths = list_images(self.images, self.recursive, self.follow_links)
        return self._evaluation_loader(ReadableOnly(self.image_dataset(paths)))

    def full_batches(self) -> int:
        """Batches of an ordinary epoch, `limit_train_batches` and `overfit_batches` regarded."""
        return self._progress.steps

    def remaining_batches(self) -> int:
        """Batches of the trainer's epoch that are not done, at most `full_batches()`.

        An interrupted epoch that goes on with another batch size, say, has done `full_batches() - remaining_batches()`
        of the steps that it has now. To be asked for once the training loader is made and the trainer's progress
        restored.
        """
        return self._progress.remaining()

    def continuation(self) -> str | None:
        """One sentence on an interrupted epoch that goes on with another batch size, say, or None."""
        return self._progress.continuation()

    def state_dict(self) -> dict[str, Any]:
        """The images that the epoch has seen, on all processes."""
        return self._progress.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the images that an interrupted epoch has seen."""
        self._progress.load_state_dict(state_dict)

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _trainer_epoch(self) -> int:
        return int(self.trainer.fit_loop.epoch_progress.current.processed) if self.trainer else 0

    def _trainer_steps(self) -> int:
        # Not `completed`, which callbacks that save at the end of a step see before it counts this step.
        return int(self.trainer.fit_loop.epoch_loop.batch_progress.current.processed) if self.trainer else 0

    def _limited(self, steps: int) -> int:
        limit = self.trainer.limit_train_batches if self.trainer else 1.0
        return min(steps, limit) if isinstance(limit, int) else int(steps * limit)

    def _sampler(self, dataset: "Dataset[Any]", shuffled: bool) -> KeySampler:
        rank = self.trainer.global_rank if self.trainer else 0
        return KeySampler(len(dataset), shuffled, self.seed, rank, self._world_size)  # type: ignore[arg-type]

    def _evaluation_loader(self, dataset: "Dataset[Any]") -> DataLoader[Any]:
        sampler = self._sampler(dataset, shuffled=False)
        options = self._loader_options(training=False)
        if self.pipeline.keeps_size and has_large(dataset.paths, self.max_pixels):  # type: ignore[attr-defined]
            # A worker would hand each over in shared memory, and the network is busy with its windows far longer.
            options |= {"num_workers": 0, "persistent_workers": False}
        return QuietLoader(dataset, batch_size=self.val_batch_size, sampler=sampler, **options)

    def _loader_options(self, training: bool) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "collate_fn": partial(_collate, self.collate, training),
            "worker_init_fn": start_worker,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }


def _collate(collate: Callable[..., dict[str, Any]], training: bool, samples: list[Any]) -> dict[str, Any]:
    """A batch, with what its samples say of those that they stand for."""
    batch = collate(samples, training=training)
    return batch | {"faults": [sample["faults"] for sample in samples]} if "faults" in samples[0] else batch


def _check_at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise DataError(f"{name} is {value}, expected at least {least}")


__all__ = ["SampleKey", "VisionDataModule"]
