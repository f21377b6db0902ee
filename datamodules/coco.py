"""COCO detection, and every data set in the same layout."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import albumentations as A
import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from datamodules.base import VisionDataModule
from datamodules.class_names import ClassList, match_classes, renumbering
from datamodules.coco_annotations import AnnotationFile
from datamodules.coco_dataset import COCODataset, Sample
from datamodules.collate import collate_images
from datamodules.errors import DataError
from datamodules.image_dataset import ImageDataset
from datamodules.image_ids import find_image_ids
from datamodules.images import MAX_PIXELS, Orientation
from datamodules.pipelines import DetectionPipeline, ShorterSide
from datamodules.preflight.coco import look_through_coco
from datamodules.preflight.names import encoded
from datamodules.preflight.report import Split, SplitReport
from datamodules.preflight.tiles import TileViews, count_views
from datamodules.preflight.twins import ImageFiles
from datamodules.root_folder import require_root
from datamodules.shared_memory import PREFETCHED
from datamodules.tiles import TileGrid, Tiles


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
      from them. Training targets have the boxes of the former as `crowd` (C, 4) float32, also clipped to the resized
      image, and with `masks` those of the objects as `masks` (N, h, w) uint8 0 or 1, where h and w are the image's
      `size`. In validation `ground_truth` holds every annotation as it stands in the file (boxes xywh in original
      pixels), crowd regions included, for the metric; with `masks` also `masks`, M run-length codes `{"size": [H, W],
      "counts": bytes}` of the original image.

    A training image keeps an object as long as a box of at least one pixel is left of it in the frame and, with
    `masks`, a pixel of its mask. Its box is what is left of the annotated one, as in torchvision and MMDetection; it is
    not drawn anew around what is left of the mask.

    Args:
        root: Folder of the data set.
        train_images: Folder of the training images, relative to root.
        train_annotations: Annotation file of the training split, relative to root.
        val_images: Folder of the validation images, relative to root.
        val_annotations: Annotation file of the validation split, relative to root.
        test_images: Folder of the images that `test` scores, relative to root. Default: the validation split's.
        test_annotations: Annotation file of the split that `test` scores. Default: the validation split's.
        pipeline: Resizing and augmentation. Default: `ShorterSide()`, 800 x 1333.
        batch_size: Training images per process and step.
        val_batch_size: Validation images per process and step. With images of different sizes, 1 keeps the padding,
            and so the scores, independent of which images come together.
        num_workers: Loader processes per training process; 0 loads in the training process.
        max_images: Use only the images with the lowest ids of each split, to try things out or to overfit.
        group_by_orientation: Make every training step of landscape or of portrait images, which then need less
            padding. The images left over at the end of an epoch are mixed.
        masks: Read the masks of the objects, too, for detectors that learn them. The command line takes it from the
            detector.
        empty_images: Keep training images without any object to learn from (nothing, or only crowds and boxes without
            area), as negatives, or drop them, as the recipes of torchvision and MMDetection do.
        training_targets: Give of validation images, too, what only training needs: crowd regions in the frame and, with
            `masks`, the objects' masks. The command line takes it from `--model.validation_loss`.
        follow_links: Read images through links that lead out of their folder, as where a data set is links to shared
            storage; otherwise such an image is an error.
        orientation: What to do with a picture that EXIF wants turned where the size in the json does not tell, as it
            does where a quarter turn makes it another: read the `stored` pixels, which COCO's annotations refer to,
            `apply` the turn, as browser tools for annotation do, or `refuse` the picture.
        max_pixels: Larger images are refused.
        largest_grey: Grey level of images of more than 8 bits that becomes 255, as do those above, such as 4095 for 12
            bits in a 16-bit file. Default: the largest of the format, 65535.
        images: Image, folder or glob that `predict` runs on, instead of the validation split. Where all lie in the
            images folder of a split and its annotation file names them, they have its ids; otherwise the numbers that
            are their names, or else they count from 1. What cannot be read is left out and counted at the end.
        recursive: Take the images in the sub-folders of `images`, too.
        class_names: Names of the classes 0..K-1 that the model knows. The categories of the files are matched to them
            by name, whatever their ids. Default: those of the validation file, by increasing id.
        category_ids: Original ids of these classes, for `predict` on `images`, where no data set is at hand. Default:
            those of the validation file.
        seed: Start of all random numbers of order and augmentation. The command line links it to `seed_everything`.
        strict: Do not start where something of the data set is lost or doubtful, instead of saying so.
        on_corrupt: What a training image does that cannot be read: stop the run, or be left out, with a line for each,
            for another one that follows from the seed. Of validation it stops the run always: the score would lie.
        tiles: Cut training images into tiles, each of them a sample, as for images far larger than the network's input.
            Default: whole images.
    """

    test_options = "--data.test_images and --data.test_annotations"

    def __init__(
        self,
        root: Path,
        train_images: str = "train2017",
        train_annotations: str = "annotations/instances_train2017.json",
        val_images: str = "val2017",
        val_annotations: str = "annotations/instances_val2017.json",
        test_images: str | None = None,
        test_annotations: str | None = None,
        pipeline: DetectionPipeline | None = None,
        batch_size: int = 2,
        val_batch_size: int = 1,
        num_workers: int = 2,
        max_images: int | None = None,
        group_by_orientation: bool = False,
        masks: bool = False,
        empty_images: Literal["keep", "drop"] = "keep",
        training_targets: bool = False,
        follow_links: bool = True,
        orientation: Orientation = "stored",
        max_pixels: int = MAX_PIXELS,
        largest_grey: int | None = None,
        images: str | None = None,
        recursive: bool = False,
        class_names: list[str] | None = None,
        category_ids: list[int] | None = None,
        seed: int = 42,
        strict: bool = False,
        on_corrupt: Literal["stop", "skip"] = "stop",
        tiles: Tiles | None = None,
    ) -> None:
        super().__init__(
            batch_size,
            val_batch_size,
            num_workers,
            max_images,
            images,
            class_names,
            seed,
            follow_links,
            orientation,
            max_pixels,
            largest_grey,
            recursive,
            strict,
            on_corrupt,
        )
        if (test_images is None) != (test_annotations is None):
            raise DataError(
                f"test_images is {test_images}, test_annotations {test_annotations}; expected both or neither"
            )
        if class_names and category_ids and len(class_names) != len(category_ids):
            raise DataError(
                f"class_names has {len(class_names)} entries, category_ids {len(category_ids)}; expected an id for each"
            )
        self.root = Path(root)
        self.train_images, self.train_annotations = train_images, train_annotations
        self.val_images, self.val_annotations = val_images, val_annotations
        self.test_images, self.test_annotations = test_images, test_annotations
        self.pipeline = pipeline or ShorterSide()
        self.group_by_orientation = group_by_orientation
        self.masks, self.empty_images, self.training_targets = masks, empty_images, training_targets
        self.tiles, self._given_category_ids = tiles, category_ids

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
        for file in map(self.__dict__.get, ("_validation", "_training", "_test")):
            if file is not None:
                ids = dict(zip(file.class_names, file.category_ids, strict=True))
                data = ClassList(str(file.path), file.class_names)
                renamed = {**ids, **model_ids} != ids
                sentences.append(renumbering(data, self._labels(file), file.category_ids, renamed))
        return "; ".join(filter(None, sentences)) or None

    @cached_property
    def _training(self) -> AnnotationFile:
        return self._open(self.train_annotations)

    @cached_property
    def _validation(self) -> AnnotationFile:
        return self._open(self.val_annotations)

    @cached_property
    def _test(self) -> AnnotationFile | None:
        return None if self.test_annotations is None else self._open(self.test_annotations)

    def _open(self, annotations: str) -> AnnotationFile:
        if not (self.root / annotations).is_file():
            require_root(self.root, annotations)
        file = AnnotationFile(self.root / annotations, self.max_images)
        if self.masks:
            file.check_masks()
        return file

    @cached_property
    def training_images(self) -> NDArray[np.intp]:
        """Places in the training file of the images that are trained on."""
        file = self._training
        return np.arange(len(file)) if self.empty_images == "keep" else np.flatnonzero(file.objects())

    @cached_property
    def training_tiles(self) -> TileGrid | None:
        """The tiles of the training images; without objects to learn from where such images are dropped, too."""
        if self.tiles is None or self.empty_images == "keep":
            return self._all_tiles
        assert self._all_tiles is not None and self.tile_views is not None
        return self._all_tiles.only(np.flatnonzero(self.tile_views.kept))

    @cached_property
    def tile_views(self) -> TileViews | None:
        """What all tiles of the training images see of the objects."""
        if self._all_tiles is None:
            return None
        return count_views(self._training, self.training_images, self._all_tiles)

    @cached_property
    def _all_tiles(self) -> TileGrid | None:
        return None if self.tiles is None else TileGrid(self._training.sizes[self.training_images], self.tiles)

    def _labels(self, file: AnnotationFile) -> NDArray[np.int64]:
        """Label that the model has for each class of a file."""
        model = self.root / self.val_annotations if self._given_class_names is None else "the model"
        return match_classes(ClassList(str(model), self.class_names), ClassList(str(file.path), file.class_names))

    def train_dataset(self) -> Dataset[Sample]:
        """The training split, augmented."""
        folder, transforms, images = self.train_images, self.pipeline.training(), self.training_images
        return self._split(folder, self._training, transforms, training=True, images=images, tiles=self.training_tiles)

    def val_dataset(self) -> Dataset[Sample]:
        """The validation split with its ground truth."""
        return self._split(self.val_images, self._validation, self.pipeline.evaluation(), training=False)

    def test_dataset(self) -> Dataset[Sample] | None:
        """The test split with its ground truth, if there is one."""
        if self.test_images is None or self._test is None:
            return None
        return self._split(self.test_images, self._test, self.pipeline.evaluation(), training=False)

    def _split(
        self,
        folder: str,
        annotations: AnnotationFile,
        transforms: list[A.BasicTransform],
        training: bool,
        images: NDArray[np.intp] | None = None,
        tiles: TileGrid | None = None,
    ) -> COCODataset:
        return COCODataset(
            self.root / folder,
            annotations,
            self._labels(annotations),
            transforms,
            self.seed,
            training,
            self.follow_links,
            self.masks,
            images,
            self._reader(training, tiles),
            self.training_targets,
            tiles,
        )

    def image_files(self, split: Split) -> ImageFiles:
        """The images of a split that are read."""
        names = encoded(self._annotations(split).file_names)
        if split == "training":
            return ImageFiles(self.root / self.train_images, [names[place] for place in self.training_images])
        given = self.test_images if split == "test" else None
        return ImageFiles(self.root / (given or self.val_images), names)

    def look_through(self, split: Split, whole: bool) -> SplitReport:
        """Looks for what of a split is lost or doubtful."""
        return look_through_coco(self, split, self._annotations(split), whole)

    def _annotations(self, split: Split) -> AnnotationFile:
        if split == "training":
            return self._training
        return (self._test if split == "test" else None) or self._validation

    def sample_bytes(self, training: bool) -> float:
        """Bytes of a sample of a typical size; with masks, of so many objects as all prefetched ones have at most.

        That is the mean over the training split, and three times the spread of the mean of so many images.
        """
        of_image = super().sample_bytes(training)
        if not (self.masks and (training or self.training_targets)):
            return of_image
        objects = self._training.objects()[self.training_images]
        if training and self.tile_views is not None:
            objects = self.tile_views.kept
        images = max(1, self.batch_size * self.num_workers * PREFETCHED)
        return of_image * (1 + (objects.mean() + 3 * objects.std() / images**0.5) / self.bytes_per_pixel)

    def sample_groups(self) -> list[int] | None:
        """0 for landscape, 1 for portrait images, if they shall be kept apart."""
        if not self.group_by_orientation:
            return None
        sizes = self._training.sizes[self.training_images] if self.training_tiles is None else self.training_tiles.sizes
        return [int(portrait) for portrait in sizes[:, 0] > sizes[:, 1]]

    def predict_dataloader(self) -> DataLoader[Any]:
        """The given images, or else the validation split; says which ids the former have."""
        loader = super().predict_dataloader()
        if self.images is not None:
            rank_zero_info(loader.dataset.id_source)  # type: ignore[attr-defined]
        return loader

    def image_dataset(self, paths: list[Path]) -> Dataset[Sample]:
        """Images without annotations."""
        splits = [(self.val_images, self.val_annotations), (self.train_images, self.train_annotations)]
        if self.test_images is not None and self.test_annotations is not None:
            splits.append((self.test_images, self.test_annotations))
        ids = find_image_ids(paths, [(self.root / images, self.root / file) for images, file in splits])
        return ImageDataset(paths, self.pipeline.evaluation(), ids, self.evaluation_reader)

    def collate(self, samples: list[Sample], training: bool) -> dict[str, Any]:
        """Pads the images of a batch to one size."""
        frame = self.pipeline.frame if training else self.pipeline.test_frame
        in_windows = self.pipeline.keeps_size and not training
        return collate_images(samples, frame, multiple=1 if in_windows else 32)
