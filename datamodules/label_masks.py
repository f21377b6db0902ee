"""Images with label masks, in whatever folders and with whatever values."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import albumentations as A
import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch.utils.data import Dataset

from datamodules.base import VisionDataModule
from datamodules.class_lists import LIBRARY, Colour, published_colours, read_colours, read_names
from datamodules.class_names import ClassList, match_classes, renumbering
from datamodules.collate import collate_images, pad_images
from datamodules.decoded import KeptDecoded
from datamodules.errors import DataError
from datamodules.image_dataset import ImageDataset
from datamodules.images import MAX_PIXELS, Orientation
from datamodules.label_mask_dataset import LabelMaskDataset, Sample, ignored_in, mask_reader
from datamodules.mask_files import MaskFiles, pair_files
from datamodules.mask_values import MaskValues, expanded, packed
from datamodules.pipelines import RandomRatioCrop, SegmentationPipeline
from datamodules.preflight.headers import read_header
from datamodules.preflight.kept import each
from datamodules.preflight.label_masks import look_through_masks
from datamodules.preflight.report import Split, SplitReport
from datamodules.preflight.tiles import look_at_tiles
from datamodules.preflight.twins import ImageFiles
from datamodules.rare_classes import RareClassDataset, RareClasses, class_pixels
from datamodules.tiles import TileGrid, Tiles

Values = dict[int, str | None] | list[int | str]


class LabelMasks(VisionDataModule):
    """Images with a class for every pixel.

    Known data sets are files in `configs/data`, such as `--data cityscapes`; docs/data.md leads from a folder to a
    command. A batch is a dictionary:

    - `image`: (B, 3, H, W) uint8 RGB, padded right and bottom with 0;
    - `size`: (B, 2) valid height and width;
    - `mask`: in training (B, H, W) uint8, padded with 255 = ignored; in validation B tensors (H_i, W_i) at original
      resolution. With more than 254 classes int16, in which -1 is ignored;
    - `repeated`: (B,) bool, True where a sample only fills up the last step of a distributed run;
    - `keys`: B `SampleKey`s, from which `batch_of` makes a training batch again;
    - `views`: in evaluation in several sizes (`RandomRatioCrop(test_ratios=...)`) B lists of uint8 images (3, h, w), of
      which `image` has the largest;
    - `targets`: B dictionaries with `image_id`, `file_name` (the path), `original_size` (2,) height and width.

    Args:
        root: Folder that all other paths are meant from.
        train: Images and masks of the training split.
        val: Those of the validation split.
        test: Those of the test split. Default: `test` scores the validation split.
        classes: Names of the classes in the masks, in order; or a text file with a name on each line or a column
            `name`; or those of MMSegmentation's data set `mmseg.CityscapesDataset` and the like.
        first_value: Value of the first class in the masks; the others count on. 1 where 0 is no class.
        values: Where the values do not simply count on: the value of each class in order, as in `[7, 8, 11..13]`; or
            the class of each value, as in `{0: road, 3: car, 4: car, 9: null}`, where null is ignored.
        colours: RGB colour of each class in order, where masks are coloured pictures or have a palette that tells; or
            a table with columns r, g, b; or those of `mmseg.CityscapesDataset` and the like.
        ignored: Values of pixels that neither loss nor metric counts, such as `[0..6, 255]`. Default: all below
            `first_value`, and 255, or 65535 where 255 is a class.
        others: What a value that is neither a class nor ignored does: stop with its file's name, or count as ignored.
        pipeline: Resizing and augmentation. Default: `RandomRatioCrop()`, MMSegmentation's 512 x 512 recipe.
        batch_size: Training images per process and step.
        val_batch_size: Validation images per process and step; 1 keeps the scores independent of padding.
        num_workers: Loader processes per training process; 0 loads in the training process.
        max_images: Use only the first images of each split in the order of their names, to try things out.
        follow_links: Read images and masks through links that lead out of their folder, as where a data set is links to
            shared storage; otherwise such a file is an error.
        orientation: What to do with a picture that EXIF wants turned where the size of its mask does not tell, as it
            does where a quarter turn makes it another: read the `stored` pixels, `apply` the turn, or `refuse` it.
        max_pixels: Larger images and masks are refused.
        largest_grey: Grey level of images of more than 8 bits that becomes 255, as do those above, such as 4095 for 12
            bits in a 16-bit file. Default: the largest of the format, 65535.
        images: Image, folder or glob that `predict` runs on, instead of the validation split. What cannot be read is
            left out and counted at the end.
        recursive: Take the images in the sub-folders of `images`, too.
        class_names: Names of the classes 0..K-1 that the model knows. Those of `classes` are matched to them by name,
            whatever their order; without `classes`, the masks are taken to count in this order. Default: `classes`.
        seed: Start of all random numbers of order and augmentation. The command line links it to `seed_everything`.
        strict: Do not start where something of the data set is lost or doubtful, instead of saying so.
        on_corrupt: What a training image does that cannot be read: stop the run, or be left out, with a line for each,
            for another one that follows from the seed. Of validation it stops the run always: the score would lie.
        rare_classes: Draw training images, or tiles, by the classes that they hold, rare ones oftener. Default: every
            one once in an epoch.
        tiles: Cut training images into tiles, each of them a sample, as for images far larger than the network's input.
            Default: whole images.
    """

    bytes_per_pixel = 4  # and the mask
    test_options = "--data.test.images, --data.test.masks"
    class_list = "classes"
    """What a data set without class names lacks."""

    def __init__(
        self,
        root: Path,
        train: MaskFiles,
        val: MaskFiles,
        test: MaskFiles | None = None,
        classes: list[str] | str | None = None,
        first_value: int = 0,
        values: Values | None = None,
        colours: list[Colour] | str | None = None,
        ignored: list[int | str] | None = None,
        others: Literal["refuse", "ignore"] = "refuse",
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
            batch_size=batch_size,
            val_batch_size=val_batch_size,
            num_workers=num_workers,
            max_images=max_images,
            images=images,
            class_names=class_names,
            seed=seed,
            follow_links=follow_links,
            orientation=orientation,
            max_pixels=max_pixels,
            largest_grey=largest_grey,
            recursive=recursive,
            strict=strict,
            on_corrupt=on_corrupt,
        )
        if sum((first_value != 0, values is not None, colours is not None)) > 1:
            raise DataError("first_value, values and colours say the same in three ways; give one of them")
        if colours is not None and ignored is not None:
            raise DataError("ignored is for numbers; with colours, --data.others ignore ignores what is no class")
        self.root = Path(root)
        self.train, self.val, self.test = train, val, test
        self.classes, self.first_value, self.values = classes, first_value, values
        self.colours, self.ignored, self.others = colours, ignored, others
        self.pipeline, self.rare_classes, self.tiles = pipeline or RandomRatioCrop(), rare_classes, tiles

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of a typical network input."""
        return self.pipeline.image_size

    @cached_property
    def listed_names(self) -> list[str] | None:
        """The classes that the data set lists, in its own order; None where it leaves them to the model."""
        if isinstance(self.classes, str):
            is_there = self.classes.startswith(LIBRARY) or (self.root / self.classes).is_file()
            left_to_model = self._given_class_names is not None and not is_there
            return None if left_to_model else read_names(self.root, self.classes)
        if self.classes is None and isinstance(self.values, dict):
            return list(dict.fromkeys(name for name in self.values.values() if name is not None))
        return self.classes

    def read_class_names(self) -> list[str]:
        """Names of the classes, in the order of the data set."""
        if self.listed_names is None:
            raise DataError("no class names; list them in order, as in --data.classes '[road, car]', or in a file")
        return self.listed_names

    def class_mapping(self) -> str | None:
        """One sentence where the masks number the classes differently from the model, or None."""
        if self.listed_names is None:
            if self.images is not None:  # no masks are read
                return None
            return f"{self.root} has no {self.class_list}: its masks are taken to number the classes as the model does"
        data = ClassList(str(self.root), self.listed_names)
        return renumbering(data, self._labels, self.mask_values.first_values())

    def convention(self) -> str:
        """One line: which values of the masks are which classes, and what is ignored."""
        return f"masks of {self.root}: {self.mask_values}"

    @cached_property
    def _labels(self) -> NDArray[np.int64]:
        """Label that the model has for each class of the data set."""
        if self.listed_names is None:
            return np.arange(len(self.class_names))
        return match_classes(ClassList("the model", self.class_names), ClassList(self.names_owner, self.listed_names))

    @property
    def names_owner(self) -> str:
        """Who lists the classes, for messages."""
        return f"{self.root}/{self.classes}" if isinstance(self.classes, str) else str(self.root)

    @cached_property
    def mask_values(self) -> MaskValues:
        """What the values of the masks mean."""
        names = self.listed_names or self.class_names
        places = self._places(names)
        return MaskValues(
            names, places, self.colours is not None, self.others == "ignore", self._labels, self.if_unknown
        )

    def _places(self, names: list[str]) -> dict[int, int | None]:
        """Value -> place of its class, None for ignored."""
        classes: dict[int, int | None]
        if isinstance(self.values, dict):
            unknown = {name for name in self.values.values() if name is not None} - {*names}
            if unknown:
                raise DataError(f"values has the class {min(unknown)!r}, expected one of {', '.join(names[:8])}, ...")
            classes = {value: None if name is None else names.index(name) for value, name in self.values.items()}
        else:
            numbers = self._numbers(len(names))
            if len(numbers) != len(names) or len({*numbers}) < len(numbers):
                what = "values" if self.colours is None else "colours"
                raise DataError(
                    f"there are {len({*numbers})} different {what} for {len(names)} classes; expected one for each, in "
                    "the order of the classes"
                )
            classes = {number: place for place, number in enumerate(numbers)}
        return dict.fromkeys(self._ignored(classes)) | classes

    def _numbers(self, count: int) -> list[int]:
        """The value of each class."""
        if self.colours is not None:
            colours = read_colours(self.root, self.colours) if isinstance(self.colours, str) else self.colours
            return list(map(packed, colours))
        if isinstance(self.values, list):
            return expanded(self.values)
        return list(range(self.first_value, self.first_value + count))

    def _ignored(self, classes: dict[int, int | None]) -> list[int]:
        """Ignored values beside those of `values`."""
        if self.colours is not None:
            return []
        if self.ignored is None:
            return [*range(self.first_value), 65535 if 255 in classes else 255]
        given = expanded(self.ignored)
        both = [value for value in given if classes.get(value) is not None]
        if both:
            raise DataError(f"value {both[0]} is ignored and a class; take it out of ignored or of values")
        return given

    @cached_property
    def class_colours(self) -> list[Colour] | None:
        """RGB colours of the classes 0..K-1 of the model, where any are known: the masks', or those of the library."""
        source = self.colours
        if source is None and isinstance(self.classes, str) and self.classes.startswith(LIBRARY):
            source = self.classes
        is_there = not isinstance(source, str) or source.startswith(LIBRARY) or (self.root / source).is_file()
        if source is None or self.listed_names is None or not is_there:
            return published_colours(tuple(self.class_names))
        of_data_set = read_colours(self.root, source) if isinstance(source, str) else source
        of_label = dict(zip(self._labels.tolist(), of_data_set, strict=True))
        return [of_label[label] for label in range(len(of_label))]

    def train_dataset(self) -> Dataset[Sample]:
        """The training split, augmented."""
        dataset = self._split(self.train, self.pipeline.training(), training=True, tiles=self.training_tiles)
        if self.rare_classes is None:
            return dataset
        pixels = class_pixels(dataset, len(self.class_names))
        return RareClassDataset(dataset, pixels, self.rare_classes, self.seed)

    @cached_property
    def training_tiles(self) -> TileGrid | None:
        """The tiles of the training images, by the headers of their masks, which are as large."""
        if self.tiles is None:
            return None
        _, masks = self._pairs(self.train)
        headers = list(each(lambda place: read_header(masks[place], self.max_pixels), range(len(masks))))
        faults = [f"{mask} ({header.fault})" for mask, header in zip(masks, headers, strict=True) if header.fault]
        if faults:
            text = f"{len(faults)} of {len(masks)} masks cannot be read, the first: {faults[0]}"
            if self.on_corrupt != "skip":
                raise DataError(f"{text}; replace them, or leave them out with --data.on_corrupt skip")
            rank_zero_info(f"{text}; they give no tiles")
        return TileGrid(np.array([header.size for header in headers], np.int64), self.tiles)

    def val_dataset(self) -> Dataset[Sample]:
        """The validation split with its masks at original resolution."""
        return self._split(self.val, self.pipeline.evaluation(), training=False)

    def test_dataset(self) -> Dataset[Sample] | None:
        """The test split, where there is one."""
        return None if self.test is None else self._split(self.test, self.pipeline.evaluation(), training=False)

    def image_files(self, split: Split) -> ImageFiles:
        """The images of a split."""
        paths, _ = self._pairs(self._files(split))
        return ImageFiles(self.root, [os.fsencode(path.relative_to(self.root)) for path in paths])

    def look_through(self, split: Split, whole: bool) -> SplitReport:
        """Looks for what of a split is lost or doubtful."""
        dataset = self._split(self._files(split), [], training=False)
        broken = self.severity_of_broken(split)
        files = self.image_files(split)
        report = look_through_masks(dataset, files, split, self.class_names, self.orientation, broken, whole)
        if split != "training" or self.training_tiles is None:
            return report
        return report.with_look(look_at_tiles(self.root, self.training_tiles, self.bytes_per_pixel, None))

    def _files(self, split: Split) -> MaskFiles:
        if split == "training":
            return self.train
        return (self.test if split == "test" else None) or self.val

    def _pairs(self, files: MaskFiles) -> tuple[list[Path], list[Path]]:
        paths, masks = pair_files(self.root, files, self.if_no_images)
        return paths[: self.max_images], masks[: self.max_images]

    def image_dataset(self, paths: list[Path]) -> Dataset[Sample]:
        """Images without annotations."""
        return ImageDataset(paths, self.pipeline.evaluation(), read=self.evaluation_reader, views=self.pipeline.views())

    def prediction_options(self) -> dict[str, Any]:
        """Those of every data module, and the colours in which classes are drawn."""
        own = {"train": self.train, "val": self.val, "classes": self.class_names, "colours": self.class_colours}
        return super().prediction_options() | own

    def _split(
        self, files: MaskFiles, transforms: list[A.BasicTransform], training: bool, tiles: TileGrid | None = None
    ) -> LabelMaskDataset:
        paths, masks = self._pairs(files)
        kept = tiles is not None and tiles.tiles.keep_decoded
        read_mask = mask_reader(self.mask_values)
        return LabelMaskDataset(
            paths,
            masks,
            self.mask_values,
            transforms,
            self.seed,
            training,
            self.follow_links,
            self._reader(training, tiles),
            self.max_pixels,
            self.pipeline.views(),
            tiles,
            KeptDecoded(read_mask, f"mask {self.mask_values.coloured}") if kept else read_mask,
        )

    @property
    def if_no_images(self) -> str:
        """Remedy where a split has no images."""
        return "set --data.root, and give the folder of the images, or a pattern such as 'images/*/*.jpg', below it"

    @property
    def if_unknown(self) -> str:
        """Remedy where a mask holds a value that is neither a class nor ignored."""
        return "say in --data.values or --data.ignored what it is, or ignore all such pixels by --data.others ignore"

    def collate(self, samples: list[Sample], training: bool) -> dict[str, Any]:
        """Pads the images of a batch to one size, and the masks in training."""
        batch = collate_images(samples, self.pipeline.frame if training else None, multiple=1)
        if "mask" in samples[0]:
            masks = [sample["mask"] for sample in samples]
            padding = ignored_in(masks[0])
            batch["mask"] = pad_images(masks, frame=self.pipeline.frame, value=padding) if training else masks
        if "views" in samples[0]:
            batch["views"] = [sample["views"] for sample in samples]
        return batch
