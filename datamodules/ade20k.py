"""ADE20K semantic segmentation (the SceneParsing layout), and every data set in the same layout."""

import csv
import re
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from datamodules.base import VisionDataModule
from datamodules.class_names import ClassList, match_classes, renumbering
from datamodules.collate import collate_images, pad_images
from datamodules.errors import DataError
from datamodules.image_dataset import ImageDataset, to_tensor
from datamodules.images import MAX_PIXELS, Orientation, ReadImage, check_inside, list_folder, read_image, read_mask
from datamodules.pipelines import RandomRatioCrop, SegmentationPipeline
from datamodules.sampling import SampleKey, seed_transforms

IGNORE = 255
"""Label of pixels that neither loss nor metric counts."""

Sample = dict[str, Any]


class ADE20K(VisionDataModule):
    """Images with a class for every pixel, in the layout of ADE20K's SceneParsing release.

    `ROOT/images/{training,validation}/*.jpg`, `ROOT/annotations/{training,validation}/*.png` (0 = other, k = class k),
    and `ROOT/objectInfo*.txt` or `.csv` with the class names. Labels become 0..K-1, other becomes 255 = ignored.

    A batch is a dictionary:

    - `image`: (B, 3, H, W) uint8 RGB, padded right and bottom with 0;
    - `size`: (B, 2) valid height and width;
    - `mask`: in training (B, H, W) uint8, padded with 255; in validation B tensors (H_i, W_i) at original resolution;
    - `repeated`: (B,) bool, True where a sample only fills up the last step of a distributed run;
    - `keys`: B `SampleKey`s, from which `batch_of` makes a training batch again;
    - `targets`: B dictionaries with `image_id`, `file_name` (the path), `original_size` (2,) height and width.

    Args:
        root: Folder of the data set.
        train_split: Name of the training folders in `images` and `annotations`.
        val_split: Name of the validation folders.
        test_split: Name of the folders that `test` scores. Default: the validation split's.
        pipeline: Resizing and augmentation. Default: `RandomRatioCrop()`, MMSegmentation's 512 x 512 recipe.
        batch_size: Training images per process and step.
        val_batch_size: Validation images per process and step; 1 keeps the scores independent of padding.
        num_workers: Loader processes per training process; 0 loads in the training process.
        max_images: Use only the first images of each split in the order of their names, to try things out.
        follow_links: Read images and masks through links that lead out of their folder, as where a data set is links to
            shared storage; otherwise such a file is an error.
        orientation: What to do with a picture that EXIF wants turned where the size of its mask does not tell, as it
            does where a quarter turn makes it another: read the `stored` pixels, `apply` the turn, or `refuse` it.
        max_pixels: Larger images are refused.
        largest_grey: Grey level of images of more than 8 bits that becomes 255, as do those above, such as 4095 for 12
            bits in a 16-bit file. Default: the largest of the format, 65535.
        images: Image, folder or glob that `predict` runs on, instead of the validation split. What cannot be read is
            left out and counted at the end.
        recursive: Take the images in the sub-folders of `images`, too.
        class_names: Names of the classes 0..K-1 that the model knows. Those of `objectInfo` are matched to them by
            name, whatever their order; where there is no such file, the masks are taken to count in this order.
            Default: those of the file, in its order.
        seed: Start of all random numbers of order and augmentation. The command line links it to `seed_everything`.
        strict: Do not start where something of the data set is lost or doubtful, instead of saying so.
        on_corrupt: What a training image does that cannot be read: stop the run, or be left out, with a line for each,
            for another one that follows from the seed. Of validation it stops the run always: the score would lie.
    """

    bytes_per_pixel = 4  # and the mask
    test_options = "--data.test_split"

    def __init__(
        self,
        root: Path,
        train_split: str = "training",
        val_split: str = "validation",
        test_split: str | None = None,
        pipeline: SegmentationPipeline | None = None,
        batch_size: int = 4,
        val_batch_size: int = 1,
        num_workers: int = 2,
        max_images: int | None = None,
        follow_links: bool = True,
        orientation: Orientation = "stored",
        max_pixels: int = MAX_PIXELS,
        largest_grey: int | None = None,
        images: str | None = None,
        recursive: bool = False,
        class_names: list[str] | None = None,
        seed: int = 42,
        strict: bool = False,
        on_corrupt: Literal["stop", "skip"] = "stop",
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
        self.root = Path(root)
        self.train_split, self.val_split, self.test_split = train_split, val_split, test_split
        self.pipeline = pipeline or RandomRatioCrop()

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of a typical network input."""
        return self.pipeline.image_size

    @cached_property
    def _class_names_of_file(self) -> list[str]:
        return read_class_names(self.root)

    def read_class_names(self) -> list[str]:
        """Names of the classes, in the order of the file."""
        return self._class_names_of_file

    def class_mapping(self) -> str | None:
        """One sentence where the masks number the classes differently from the model, or None."""
        if not self._lists_classes:
            return f"{self.root} has no objectInfo: its masks are taken to number the classes as the model does"
        data = ClassList(str(self.root), self.read_class_names())
        return renumbering(data, self._labels, range(1, len(data.names) + 1))

    @cached_property
    def _lists_classes(self) -> bool:
        return self._given_class_names is None or any(self.root.glob("objectInfo*"))

    @cached_property
    def _labels(self) -> NDArray[np.int64]:
        """Label that the model has for each class of the data set."""
        if not self._lists_classes:
            return np.arange(len(self.class_names))
        return match_classes(
            ClassList("the model", self.class_names), ClassList(f"{self.root}/objectInfo", self.read_class_names())
        )

    def train_dataset(self) -> Dataset[Sample]:
        """The training split, augmented."""
        return self._split(self.train_split, self.pipeline.training(), training=True)

    def val_dataset(self) -> Dataset[Sample]:
        """The validation split with its masks at original resolution."""
        return self._split(self.val_split, self.pipeline.evaluation(), training=False)

    def test_dataset(self) -> Dataset[Sample] | None:
        """The test split with its masks, if there is one."""
        if self.test_split is None:
            return None
        return self._split(self.test_split, self.pipeline.evaluation(), training=False)

    def image_dataset(self, paths: list[Path]) -> Dataset[Sample]:
        """Images without annotations."""
        return ImageDataset(paths, self.pipeline.evaluation(), read=self.read_image)

    def _split(self, split: str, transforms: list[A.BasicTransform], training: bool) -> "ADE20KDataset":
        paths = find_images(self.root / "images" / split)[: self.max_images]
        annotations = self.root / "annotations" / split
        return ADE20KDataset(
            paths, annotations, self._labels, transforms, self.seed, training, self.follow_links, self.read_image
        )

    def collate(self, samples: list[Sample], training: bool) -> dict[str, Any]:
        """Pads the images of a batch to one size, and the masks in training."""
        batch = collate_images(samples, self.pipeline.frame if training else None, multiple=1)
        if "mask" in samples[0]:
            masks = [sample["mask"] for sample in samples]
            batch["mask"] = pad_images(masks, frame=self.pipeline.frame, value=IGNORE) if training else masks
        return batch


class ADE20KDataset(Dataset[Sample]):
    """Samples of one split, indexed by `SampleKey`.

    Args:
        paths: Image files.
        annotations: Folder of the masks, of the same names ending in .png.
        labels: (K,) label that the model has for each class of the masks, which hold 0..K.
        transforms: albumentations transforms.
        seed: The run's seed.
        training: Transform the mask with the image; otherwise it keeps its original resolution.
        follow_links: Read files through links that lead out of their folder.
        read: Decodes an image.
    """

    def __init__(
        self,
        paths: list[Path],
        annotations: Path,
        labels: NDArray[np.int64],
        transforms: list[A.BasicTransform],
        seed: int,
        training: bool,
        follow_links: bool = True,
        read: ReadImage = read_image,
    ) -> None:
        self.paths, self.annotations, self.num_classes, self.read = paths, annotations, len(labels), read
        self.labels = np.full(256, IGNORE, dtype=np.uint8)
        self.labels[: len(labels)] = labels
        self.seed, self.training, self.follow_links = seed, training, follow_links
        self.transforms = A.Compose(transforms)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Reads and augments one image; the result depends on the seed and the key alone."""
        path = self.paths[key.index]
        mask_path = self.annotations / f"{path.stem}.png"
        if not self.follow_links:
            check_inside(path.parent, path)
            check_inside(self.annotations, mask_path)
        stored = read_mask(mask_path)
        image = self.read(path, size=stored.shape)
        if stored.shape != image.shape[:2]:
            raise DataError(
                f"{mask_path} is {stored.shape} (height, width), but {path} is {image.shape[:2]}; "
                "expected equal sizes, take the mask that was drawn on this image"
            )
        try:
            mask = cv2.LUT(reduce_zero_label(stored, self.num_classes), self.labels)
        except DataError as error:
            raise DataError(f"{mask_path}: {error}") from None
        target = {"image_id": key.index, "file_name": str(path), "original_size": torch.tensor(image.shape[:2])}
        seed_transforms(self.transforms, self.seed, key)
        if self.training:
            augmented = self.transforms(image=image, mask=mask)
            image, mask = augmented["image"], augmented["mask"]
        else:
            image = self.transforms(image=image)["image"]
        return {
            "image": to_tensor(image),
            "mask": torch.from_numpy(mask),
            "target": target,
            "key": key,
        }


def reduce_zero_label(stored: NDArray[np.uint8] | NDArray[np.uint16], num_classes: int) -> NDArray[np.uint8]:
    """Turns stored labels into class labels: 0 (other) and 255 become 255 = ignored, k becomes k - 1.

    Raises:
        DataError: A label is above K, or has more than 8 bits.
    """
    if stored.dtype != np.uint8:
        raise DataError(f"{stored.dtype} labels found, expected 8 bits; save the mask with 8 bits a pixel")
    mask: NDArray[np.uint8] = stored - np.uint8(1)  # 0 wraps around to 255
    mask[stored == IGNORE] = IGNORE
    wrong = (mask >= num_classes) & (mask != IGNORE)
    if wrong.any():
        raise DataError(
            f"label {stored[wrong].max()} found, expected 0..{num_classes} or 255; list all classes in objectInfo or "
            "relabel the mask"
        )
    return mask


def find_images(folder: Path) -> list[Path]:
    """Images of a split, by name.

    Raises:
        DataError: The folder is missing or empty.
    """
    paths = list_folder(folder).files
    if not paths:
        raise DataError(
            f"no images in {folder}; expected ROOT/images/{{training,validation}}/*.jpg and "
            "ROOT/annotations/{training,validation}/*.png as in ADEChallengeData2016 (SceneParsing), not the full "
            "ADE20K release; set --data.root, or write the sample data set with: python -m datamodules.shapes "
            "--root data/shapes"
        )
    return paths


def read_class_names(root: Path) -> list[str]:
    """Reads the class names from `objectInfo*.txt` (tabs), or else from `objectInfo*.csv` (commas).

    The text file goes first because ADE20K's csv has lost the spaces in names ("screen;door;screen"). Of several
    synonyms ("building, edifice") the first is kept, or all where two classes share the first.

    Raises:
        DataError: There is no such file, it has no column Name, or labels and names are not one to one.
    """
    files = [*sorted(root.glob("objectInfo*.txt")), *sorted(root.glob("objectInfo*.csv"))]
    if not files:
        raise DataError(
            f"no objectInfo*.txt or objectInfo*.csv with the class names in {root}; ADEChallengeData2016 has one; set "
            "--data.root, or write the sample data set with: python -m datamodules.shapes --root data/shapes"
        )
    path = files[0]
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from None
    rows = list(csv.DictReader(lines, delimiter="\t" if path.suffix == ".txt" else ","))
    synonyms = [[part.strip() for part in re.split("[;,]", row.get("Name") or "")] for row in rows]
    firsts = Counter(first for first, *_ in synonyms)
    names = [first if firsts[first] == 1 else ", ".join([first, *others]) for first, *others in synonyms]
    if not names or not all(names):
        raise DataError(f"{path} has no column Name, or an empty one; expected the columns Idx,...,Name")
    if any((row.get("Idx", str(number)) or "").strip() != str(number) for number, row in enumerate(rows, start=1)):
        raise DataError(f"{path}: the column Idx does not count 1, 2, ..., {len(rows)}; sort the lines by label")
    if len(set(names)) < len(names):
        repeated = [name for name, count in Counter(names).items() if count > 1]
        raise DataError(f"{path} names several classes {repeated[:5]}; give every class a name of its own")
    return names
