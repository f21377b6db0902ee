"""COCO detection, and every data set in the same layout."""

from functools import cached_property
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from datamodules.base import VisionDataModule
from datamodules.class_names import ClassList, match_classes, renumbering
from datamodules.coco_annotations import AnnotationFile, clipped_corners
from datamodules.collate import collate_images
from datamodules.errors import DataError
from datamodules.image_dataset import ImageDataset, to_tensor
from datamodules.images import check_inside, read_image
from datamodules.pipelines import DetectionPipeline, ShorterSide
from datamodules.sampling import SampleKey, seed_transforms

Sample = dict[str, Any]


class COCO(VisionDataModule):
    """Images with boxes in COCO's layout.

    A batch is a dictionary:

    - `image`: (B, 3, H, W) uint8 RGB, padded right and bottom with 0;
    - `size`: (B, 2) valid height and width;
    - `repeated`: (B,) bool, True where a sample only fills up the last step of a distributed run;
    - `keys`: B `SampleKey`s, from which `batch_of` makes a training batch again;
    - `targets`: B dictionaries with `image_id`, `file_name` (the path), `original_size` (2,) height and width, and
      `boxes` (N, 4) float32 xyxy in pixels of the resized image, `labels` (N,) int64 in 0..K-1, `area` (N,) in pixels
      of the original image, `iscrowd` (N,). Crowd regions and boxes without area are left out: no detector learns
      from them. In validation `ground_truth` holds every annotation as it stands in the file (boxes xywh in original
      pixels), crowd regions included, for the metric.

    Args:
        root: Folder of the data set.
        train_images: Folder of the training images, relative to root.
        train_annotations: Annotation file of the training split, relative to root.
        val_images: Folder of the validation images, relative to root.
        val_annotations: Annotation file of the validation split, relative to root.
        pipeline: Resizing and augmentation. Default: `ShorterSide()`, 800 x 1333.
        batch_size: Training images per process and step.
        val_batch_size: Validation images per process and step. With images of different sizes, 1 keeps the padding,
            and so the scores, independent of which images come together.
        num_workers: Loader processes per training process; 0 loads in the training process.
        max_images: Use only the images with the lowest ids of each split, to try things out or to overfit.
        group_by_orientation: Make every training step of landscape or of portrait images, which then need less
            padding. The images left over at the end of an epoch are mixed.
        follow_links: Read images through links that lead out of their folder, as where a data set is links to shared
            storage; otherwise such an image is an error.
        images: Image, folder or glob that `predict` runs on, instead of the validation split.
        class_names: Names of the classes 0..K-1 that the model knows. The categories of the files are matched to them
            by name, whatever their ids. Default: those of the validation file, by increasing id.
        category_ids: Original ids of these classes, for `predict` on `images`, where no data set is at hand. Default:
            those of the validation file.
        seed: Start of all random numbers of order and augmentation. The command line links it to `seed_everything`.
    """

    def __init__(
        self,
        root: Path,
        train_images: str = "train2017",
        train_annotations: str = "annotations/instances_train2017.json",
        val_images: str = "val2017",
        val_annotations: str = "annotations/instances_val2017.json",
        pipeline: DetectionPipeline | None = None,
        batch_size: int = 2,
        val_batch_size: int = 1,
        num_workers: int = 2,
        max_images: int | None = None,
        group_by_orientation: bool = False,
        follow_links: bool = True,
        images: str | None = None,
        class_names: list[str] | None = None,
        category_ids: list[int] | None = None,
        seed: int = 42,
    ) -> None:
        super().__init__(batch_size, val_batch_size, num_workers, max_images, images, class_names, seed)
        if class_names and category_ids and len(class_names) != len(category_ids):
            raise DataError(
                f"class_names has {len(class_names)} entries, category_ids {len(category_ids)}; expected an id for each"
            )
        self.root = Path(root)
        self.train_images, self.train_annotations = train_images, train_annotations
        self.val_images, self.val_annotations = val_images, val_annotations
        self.pipeline = pipeline or ShorterSide()
        self.group_by_orientation, self.follow_links = group_by_orientation, follow_links
        self._given_category_ids = category_ids

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of a typical network input."""
        return self.pipeline.image_size

    def read_class_names(self) -> list[str]:
        """Names of the categories, by increasing category id."""
        return self._validation.class_names

    @property
    def category_ids(self) -> list[int]:
        """Original category ids, position = label."""
        if self.images is not None and self._given_category_ids:
            return self._given_category_ids
        by_label = np.argsort(self._labels(self._validation))
        return [self._validation.category_ids[place] for place in by_label]

    def class_mapping(self) -> str | None:
        """One sentence where an annotation file read so far numbers its classes differently from the model, or None."""
        model_ids = dict(zip(self.class_names, self._given_category_ids or (), strict=False))
        sentences = []
        for file in map(self.__dict__.get, ("_validation", "_training")):
            if file is not None:
                ids = dict(zip(file.class_names, file.category_ids, strict=True))
                data = ClassList(str(file.path), file.class_names)
                renamed = {**ids, **model_ids} != ids
                sentences.append(renumbering(data, self._labels(file), file.category_ids, renamed))
        return "; ".join(filter(None, sentences)) or None

    @cached_property
    def _training(self) -> AnnotationFile:
        return AnnotationFile(self.root / self.train_annotations, self.max_images)

    @cached_property
    def _validation(self) -> AnnotationFile:
        return AnnotationFile(self.root / self.val_annotations, self.max_images)

    def _labels(self, file: AnnotationFile) -> NDArray[np.int64]:
        """Label that the model has for each class of a file."""
        model = self.root / self.val_annotations if self._given_class_names is None else "the model"
        return match_classes(ClassList(str(model), self.class_names), ClassList(str(file.path), file.class_names))

    def train_dataset(self) -> Dataset[Sample]:
        """The training split, augmented."""
        return self._split(self.train_images, self._training, self.pipeline.training(), training=True)

    def val_dataset(self) -> Dataset[Sample]:
        """The validation split with its ground truth."""
        return self._split(self.val_images, self._validation, self.pipeline.evaluation(), training=False)

    def _split(
        self, images: str, annotations: AnnotationFile, transforms: list[A.BasicTransform], training: bool
    ) -> "COCODataset":
        labels = self._labels(annotations)
        folder = self.root / images
        return COCODataset(folder, annotations, labels, transforms, self.seed, training, self.follow_links)

    def sample_groups(self) -> list[int] | None:
        """0 for landscape, 1 for portrait images, if they shall be kept apart."""
        if not self.group_by_orientation:
            return None
        sizes = self._training.sizes
        return [int(portrait) for portrait in sizes[:, 0] > sizes[:, 1]]

    def image_dataset(self, paths: list[Path]) -> Dataset[Sample]:
        """Images without annotations."""
        return ImageDataset(paths, self.pipeline.evaluation())

    def collate(self, samples: list[Sample], training: bool) -> dict[str, Any]:
        """Pads the images of a batch to one size."""
        return collate_images(samples, self.pipeline.frame, multiple=32)


class COCODataset(Dataset[Sample]):
    """Samples of one split, indexed by `SampleKey`.

    Args:
        folder: Folder of the images.
        annotations: The split's annotation file.
        labels: (K,) label that the model has for each class of the file.
        transforms: albumentations transforms.
        seed: The run's seed.
        training: Leave the ground truth out, which only validation needs.
        follow_links: Read images through links that lead out of the folder.
    """

    def __init__(
        self,
        folder: Path,
        annotations: AnnotationFile,
        labels: NDArray[np.int64],
        transforms: list[A.BasicTransform],
        seed: int,
        training: bool,
        follow_links: bool = True,
    ) -> None:
        self.folder, self.annotations, self.labels = folder, annotations, labels
        self.seed, self.training, self.follow_links = seed, training, follow_links
        self.transforms = A.Compose(transforms, bbox_params=_box_params())

    def __len__(self) -> int:
        """Number of images."""
        return len(self.annotations)

    @property
    def paths(self) -> list[Path]:
        """Image files, in the order of the samples."""
        return [self.folder / name for name in self.annotations.file_names]

    def __getitem__(self, key: SampleKey) -> Sample:
        """Reads and augments one image; the result depends on the seed and the key alone."""
        file = self.annotations
        path = self.folder / str(file.file_names[key.index])
        if not self.follow_links:
            check_inside(self.folder, path)
        image = read_image(path)
        height, width = (int(side) for side in file.sizes[key.index])
        if image.shape[:2] != (height, width):
            raise DataError(
                f"{path} is {image.shape[0]} x {image.shape[1]} (height x width), {file.path} says {height} x {width}; "
                "the boxes would be misplaced"
            )
        where = file.of_image(key.index)
        labels = self.labels[file.labels[where]]
        corners = clipped_corners(file.boxes[where], file.sizes[key.index])
        usable = np.flatnonzero((corners[:, 2:] > corners[:, :2]).all(axis=1) & ~file.iscrowd[where])
        seed_transforms(self.transforms, self.seed, key)
        augmented = self.transforms(image=image, bboxes=corners[usable], row=usable)
        rows = np.asarray(augmented["row"], dtype=np.int64)
        target = {
            "image_id": int(file.image_ids[key.index]),
            "file_name": str(path),
            "original_size": torch.tensor([height, width]),
            "boxes": torch.as_tensor(np.asarray(augmented["bboxes"]), dtype=torch.float32).reshape(-1, 4),
            "labels": torch.from_numpy(labels[rows]),
            "area": torch.from_numpy(file.area[where][rows]),
            "iscrowd": torch.from_numpy(file.iscrowd[where][rows]),
        }
        if not self.training:
            target["ground_truth"] = {  # copies, because the columns are read-only
                "image_id": target["image_id"],
                "original_size": (height, width),
                "boxes": file.boxes[where].copy(),
                "labels": labels,
                "area": file.area[where].copy(),
                "iscrowd": file.iscrowd[where].copy(),
            }
        return {"image": to_tensor(augmented["image"]), "target": target, "key": key}


def _box_params() -> A.BboxParams:
    """Boxes are clipped to the image; what keeps less than one pixel of width or height is dropped with its row.

    albumentations computes in float32, where the two sides of a very thin box can coincide: such boxes are dropped
    at the start, where it would raise.
    """
    return A.BboxParams(
        format="pascal_voc",
        label_fields=["row"],
        clip=True,
        filter_invalid_bboxes=True,
        min_width=1.0,
        min_height=1.0,
    )
