"""ADE20K semantic segmentation (the SceneParsing layout), and every data set in the same layout."""

from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.class_lists import OBJECT_INFO, read_object_info
from datamodules.errors import DataError
from datamodules.images import MAX_PIXELS, Orientation
from datamodules.label_masks import LabelMasks
from datamodules.mask_files import MaskFiles
from datamodules.mask_values import MaskValues
from datamodules.pipelines import SegmentationPipeline
from datamodules.rare_classes import RareClasses
from datamodules.root_folder import require_root
from datamodules.tiles import Tiles

FIRST_VALUE = 1
"""Value of class 0 in the masks; 0 is no class."""
IF_UNKNOWN = "list all classes in objectInfo or relabel the mask"


class ADE20K(LabelMasks):
    """Images with a class for every pixel, in the layout of ADE20K's SceneParsing release.

    `ROOT/images/{training,validation}/*.jpg`, `ROOT/annotations/{training,validation}/*.png` (0 = other, k = class k),
    and `ROOT/objectInfo*.txt` or `.csv` with the class names. Labels become 0..K-1, other becomes 255 = ignored.

    Batches are those of `LabelMasks`.

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
        rare_classes: Draw training images, or tiles, by the classes that they hold, rare ones oftener. Default: every
            one once in an epoch.
        tiles: Cut training images into tiles, each of them a sample, as for images far larger than the network's input.
            Default: whole images.
    """

    class_list = "objectInfo"
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
        rare_classes: RareClasses | None = None,
        tiles: Tiles | None = None,
    ) -> None:
        super().__init__(
            root,
            _files_of(train_split),
            _files_of(val_split),
            None if test_split is None else _files_of(test_split),
            first_value=FIRST_VALUE,
            pipeline=pipeline,
            batch_size=batch_size,
            val_batch_size=val_batch_size,
            num_workers=num_workers,
            max_images=max_images,
            follow_links=follow_links,
            orientation=orientation,
            max_pixels=max_pixels,
            largest_grey=largest_grey,
            images=images,
            recursive=recursive,
            class_names=class_names,
            seed=seed,
            strict=strict,
            on_corrupt=on_corrupt,
            rare_classes=rare_classes,
            tiles=tiles,
        )

    @cached_property
    def listed_names(self) -> list[str] | None:
        """The classes of `objectInfo`; None where there is none and the model's are given."""
        left_to_model = self._given_class_names is not None and not any(self.root.glob(f"{OBJECT_INFO}*"))
        return None if left_to_model else read_class_names(self.root)

    @property
    def names_owner(self) -> str:
        """The list of the classes, for messages."""
        return f"{self.root}/objectInfo"

    @property
    def if_no_images(self) -> str:
        """Remedy where a split has no images."""
        return (
            "expected ROOT/images/{training,validation}/*.jpg and ROOT/annotations/{training,validation}/*.png as in "
            "ADEChallengeData2016 (SceneParsing), not the full ADE20K release; set --data.root, or write the sample "
            "data set with: python -m datamodules.shapes --root data/shapes; --data LabelMasks reads other folders"
        )

    @property
    def if_unknown(self) -> str:
        """Remedy where a mask holds a value above the classes."""
        return IF_UNKNOWN


def _files_of(split: str) -> MaskFiles:
    return MaskFiles(f"images/{split}", f"annotations/{split}/*.png")


def reduce_zero_label(stored: NDArray[np.uint8] | NDArray[np.uint16], num_classes: int) -> NDArray[np.uint8]:
    """Turns stored labels into class labels: 0 (other) and 255 become 255 = ignored, k becomes k - 1.

    Raises:
        DataError: A label is above K.
    """
    names = [str(number) for number in range(num_classes)]
    places = {0: None, 255: None} | {FIRST_VALUE + place: place for place in range(num_classes)}
    return MaskValues(names, places, remedy=IF_UNKNOWN).read(stored).astype(np.uint8)


def read_class_names(root: Path) -> list[str]:
    """Reads the class names from `objectInfo*.txt` (tabs), or else from `objectInfo*.csv` (commas).

    The text file goes first because ADE20K's csv has lost the spaces in names ("screen;door;screen"). Of several
    synonyms ("building, edifice") the first is kept, or all where two classes share the first.

    Raises:
        DataError: There is no such file, it has no column Name, or labels and names are not one to one.
    """
    files = [*sorted(root.glob("objectInfo*.txt")), *sorted(root.glob("objectInfo*.csv"))]
    if not files:
        require_root(root, f"{OBJECT_INFO}*")
        raise DataError(
            f"no objectInfo*.txt or objectInfo*.csv with the class names in {root}; expected lines such as 'Idx,Name', "
            "'1,wall', '2,sky' (docs/data.md); set --data.root, or write the sample data set with: "
            "python -m datamodules.shapes --root data/shapes"
        )
    return read_object_info(files[0])
