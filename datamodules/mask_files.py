"""Which mask belongs to which image: two patterns, in which the same star stands for the same text."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from glob import glob
from pathlib import Path

from datamodules.errors import DataError
from datamodules.image_files import is_image, is_mask

Key = tuple[str, ...]
"""What the wildcards of a pattern stand for, in order."""

_WILDCARDS = re.compile(r"(\*\*/|\*)")


@dataclass(frozen=True)
class MaskFiles:
    """Images and masks of a split: each `*` of `masks` stands for what the same `*` of `images` stands for.

    `images/train` and `masks/train` pair `images/train/x.jpg` with `masks/train/x.png`; `photos/*/*_image.png` and
    `labels/*/*_mask.png` pair `photos/ulm/7_image.png` with `labels/ulm/7_mask.png`. A `*` stands for any text without
    `/`, `**/` for any folders or none.

    Attributes:
        images: Folder or pattern below the root. A folder is all images in it; so is a pattern that ends in `*`.
        masks: Folder or pattern below the root, with the same wildcards in the same order.
        names: Text file below the root with a line for each image of the split: what the `*` of `images` stands for, or
            the path of the image below the root. Default: all images that `images` finds.
    """

    images: str
    masks: str
    names: str | None = None


def pair_files(root: Path, files: MaskFiles, if_none: str) -> tuple[list[Path], list[Path]]:
    """Finds the images of a split, in the order of their names, and the mask of each.

    A mask that does not exist is named as it would be called.

    Args:
        root: Folder that the patterns are meant from.
        files: The patterns.
        if_none: Remedy where no image is found.

    Raises:
        DataError: There is no image, the two patterns have different wildcards, two images or masks would be one
            another's, or a listed image does not exist.
    """
    images, masks = _Pattern(root, files.images, is_image), _Pattern(root, files.masks, is_mask)
    if images.wildcards != masks.wildcards:
        raise DataError(
            f"images is {files.images!r} and masks {files.masks!r}, expected the same wildcards (*, **/) in both: each "
            "one of masks stands for what the same one of images stands for"
        )
    if files.names is None:
        found = images.files
    else:
        found = _listed(root / files.names, images)
    if not found:
        raise DataError(f"no images in {images}; {if_none}")
    paths = sorted((path, key) for key, path in found.items())
    return [root / path for path, _ in paths], [root / masks.path(key) for _, key in paths]


class _Pattern:
    """A folder or a pattern below a root.

    Args:
        root: Where the pattern begins.
        text: The pattern.
        is_meant: Whether a file is of the kind that is looked for, where the pattern leaves the ending open.
    """

    def __init__(self, root: Path, text: str, is_meant: Callable[[Path], bool]) -> None:
        self.root, self.is_meant = root, is_meant
        self.is_folder = "*" not in text
        self.text = f"{text.rstrip('/')}/*" if self.is_folder else text
        self.ends_open = self.text.endswith("*")
        self.parts = _WILDCARDS.split(self.text)
        self.wildcards = self.parts[1::2]
        groups = {"**/": "((?:[^/]+/)*)", "*": "([^/]*)"}
        expression = "".join(groups.get(part, re.escape(part)) for part in self.parts)
        self.expression = re.compile(expression + r"\.[^./]+" * self.ends_open)

    def __str__(self) -> str:
        """The folder, or the pattern as a path."""
        return str(self.root / (self.text[: -len("/*")] if self.is_folder else self.text))

    @cached_property
    def files(self) -> dict[Key, str]:
        """The files that there are, by what the wildcards stand for; hidden ones are none."""
        found: dict[Key, str] = {}
        for path in glob(re.sub(r"([?[])", r"[\1]", self.text), root_dir=self.root, recursive=True):
            key = self.key(path)
            if key is None or (self.ends_open and not self.is_meant(Path(path))):
                continue
            if key in found:
                raise DataError(
                    f"{self.root / min(found[key], path)} and {Path(max(found[key], path)).name} are both called "
                    f"{'/'.join(key)!r}: one image has one mask; take one of them away, or give the ending as in "
                    f"{self.text + '.png'!r}"
                )
            found[key] = path
        return found

    def key(self, path: str) -> Key | None:
        """What the wildcards stand for in a path."""
        match = self.expression.fullmatch(path)
        return None if match is None else match.groups()

    def path(self, key: Key) -> str:
        """The file that the wildcards lead to; .png where the pattern leaves the ending open and there is none."""
        if self.ends_open and key in self.files:
            return self.files[key]
        texts = [text for fixed, filled in zip(self.parts[::2], (*key, ""), strict=True) for text in (fixed, filled)]
        return "".join(texts) + ".png" * self.ends_open


def _listed(path: Path, images: _Pattern) -> dict[Key, str]:
    """The images that a file lists."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; expected a text file with the name of an image on each line") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from None
    found: dict[Key, str] = {}
    for line in filter(None, lines):
        key = images.key(line) or (_without_ending(line, images),)
        if len(key) != len(images.wildcards):
            raise DataError(f"{path} lists {line!r}, expected a path that {images.text!r} finds below {images.root}")
        if images.ends_open and key not in images.files:
            raise DataError(
                f"{path} lists {line!r}, but there is no such image in {images}; correct the list, or give the ending "
                f"of the images, as in {images.text + '.jpg'!r}"
            )
        if key in found:
            raise DataError(f"{path} lists {line!r} twice; take one of the lines out")
        found[key] = images.path(key)
    return found


def _without_ending(line: str, images: _Pattern) -> str:
    """The name on a line, without the ending that the pattern has or leaves open."""
    ending = Path(line).suffix if images.ends_open and is_image(Path(line)) else images.parts[-1]
    return line.removesuffix(ending)
