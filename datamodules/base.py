"""What all data modules share: loaders that give the same samples for any number of workers, and resume exactly."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.errors import DataError
from datamodules.images import list_images
from datamodules.loader import ResumableLoader
from datamodules.sampling import KeySampler, SampleKey

Batch = dict[str, Any]
"""What a task receives; the keys are documented at each data module."""


class VisionDataModule(pl.LightningDataModule, ABC):
    """Builds the loaders of training, validation, test and prediction from datasets that a subclass names.

    Args:
        batch_size: Training images per process and step.
        val_batch_size: Validation images per process and step. With images of different sizes, 1 keeps the padding,
            and so the scores, independent of which images come together.
        num_workers: Loader processes per training process; 0 loads in the training process.
        max_images: Use only the first images of each split, to try things out or to overfit.
        images: Image, folder or glob that `predict` runs on, instead of the validation split.
        class_names: Names of the classes 0..K-1, for `predict` where no data set is at hand. Default: read from the
            data set. `predict --ckpt_path` fills them in from the checkpoint.
        seed: Start of all random numbers of order and augmentation. The command line links it to `seed_everything`.
    """

    def __init__(
        self,
        batch_size: int,
        val_batch_size: int,
        num_workers: int,
        max_images: int | None,
        images: str | None,
        class_names: list[str] | None,
        seed: int,
    ) -> None:
        super().__init__()
        if batch_size < 1 or val_batch_size < 1 or num_workers < 0:
            raise DataError(
                f"batch_size {batch_size}, val_batch_size {val_batch_size}, num_workers {num_workers}: expected >= 1, "
                ">= 1 and >= 0"
            )
        if max_images is not None and max_images < 1:
            raise DataError(f"max_images is {max_images}, expected at least 1; leave it out to use all images")
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.num_workers = num_workers
        self.max_images = max_images
        self.images = images
        self.seed = seed
        self._given_class_names = class_names

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, position = label."""
        return self._given_class_names or self.read_class_names()

    @abstractmethod
    def read_class_names(self) -> list[str]:
        """Reads the names of the classes from the data set."""

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

    def sample_groups(self) -> list[int] | None:
        """Group of each training sample, where the samples of a step should be of one group."""
        return None

    @abstractmethod
    def collate(self, samples: list[Any], training: bool) -> Batch:
        """Makes a batch of samples."""

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled training batches; resumes behind the batches that an interrupted epoch has consumed."""
        dataset = self.train_dataset()
        world_size = self.trainer.world_size if self.trainer else 1
        if len(dataset) < self.batch_size * world_size:  # type: ignore[arg-type]
            raise DataError(
                f"the training split has {len(dataset)} images, fewer than batch_size {self.batch_size} x "  # type: ignore[arg-type]
                f"{world_size} processes; lower batch_size"
            )
        loader = self._loader(dataset, training=True)
        assert isinstance(loader, ResumableLoader)
        loader.consumed_batches = self._consumed_batches
        return loader

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation split in order."""
        return self._loader(self.val_dataset(), training=False)

    def test_dataloader(self) -> DataLoader[Any]:
        """The validation split: the public test splits have no annotations."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Any]:
        """The given images, or else the validation split."""
        if self.images is None:
            return self.val_dataloader()
        return self._loader(self.image_dataset(list_images(self.images)), training=False)

    def _consumed_batches(self) -> int:
        """Batches of the current epoch that are done; not 0 when a run resumes in the middle of an epoch."""
        return int(self.trainer.fit_loop.epoch_loop.batch_progress.current.ready) if self.trainer else 0

    def _loader(self, dataset: "Dataset[Any]", training: bool) -> DataLoader[Any]:
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        size = len(dataset)  # type: ignore[arg-type]
        batch_size = self.batch_size if training else self.val_batch_size
        groups = self.sample_groups() if training else None
        sampler = KeySampler(size, training, self.seed, rank, world_size, groups=groups, batch_size=batch_size)
        loader: type[DataLoader[Any]] = ResumableLoader if training else DataLoader
        return loader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=training,
            num_workers=self.num_workers,
            collate_fn=_Collate(self.collate, training),
            worker_init_fn=_bound_threads,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


class _Collate:
    """A collate function with its mode bound (a lambda cannot travel to spawned workers)."""

    def __init__(self, collate: Callable[[list[Any], bool], Batch], training: bool) -> None:
        self.collate, self.training = collate, training

    def __call__(self, samples: list[Any]) -> Batch:
        return self.collate(samples, self.training)


def _bound_threads(worker: int) -> None:
    """Gives a worker one thread: many workers with many threads each slow each other down."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


__all__ = ["Batch", "SampleKey", "VisionDataModule"]
