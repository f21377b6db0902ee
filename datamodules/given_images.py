"""Images that a program hands over: files, arrays and Pillow's pictures, read as `predict` reads files."""

from collections.abc import Iterable, Mapping, Sequence
from io import IOBase
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from datamodules.errors import DataError
from datamodules.image_files import why_missing
from datamodules.images import ReadImage, grey_as_rgb, pixels_of, scaled
from datamodules.orientation import Orientation, Size, chosen_turn, orientation_of, turn
from datamodules.room import Room, in_memory

GivenImage = str | Path | Image.Image | NDArray[np.uint8]
"""A file; or a picture of Pillow's; or pixels (H, W, 3) of red, green and blue, or (H, W) of grey, as uint8."""

_TYPES = (str, Path, Image.Image, np.ndarray)


class GivenImages:
    """Gives each image a path, and reads it by that path, as a data module's `read_image` does.

    Args:
        images: The images.
        first: Number of the first of them, for the names of those that are no files.
        read_file: Reads a file.
        orientation: What to do with a picture that EXIF wants turned.
        largest_grey: Grey level of images of more than 8 bits that becomes 255.

    An image that is read once more, to draw on it, has to be what it was: an array is known by its content.

    Attributes:
        paths: Files as they are, `~` put out; `image 3` for the fourth image.

    Raises:
        DataError: Something is no image.
    """

    def __init__(
        self,
        images: Sequence[GivenImage],
        first: int,
        read_file: ReadImage,
        orientation: Orientation = "stored",
        largest_grey: int | None = None,
    ) -> None:
        self.read_file, self.orientation, self.largest_grey = read_file, orientation, largest_grey
        self.folder = Path.cwd()
        self.paths: list[Path] = []
        self._digests: dict[Path, str] = {}
        self._pictures: dict[Path, Image.Image | NDArray[np.uint8]] = {}
        for number, image in enumerate(images, start=first):
            if isinstance(image, str | Path):
                path = _existing_file(image)
            elif isinstance(image, Image.Image | np.ndarray):
                path = Path(f"image {number}")
                self._pictures[path] = image
            else:
                raise DataError(
                    f"image {number} is of type {type(image).__name__}, expected a path, a picture of Pillow's or a "
                    "numpy array"
                )
            self.paths.append(path)

    def __call__(self, path: Path, *, size: Size | None = None, room: Room = in_memory) -> NDArray[np.uint8]:
        """Pixels (H, W, 3) of an image; those of a file in that room.

        Raises:
            DataError: It cannot be read, or is no image.
        """
        picture = self._pictures.get(path)
        if picture is None:
            return self.read_file(self.folder / path, size=size, room=room)
        if isinstance(picture, np.ndarray):
            return self._of_array(picture, path)
        try:
            pixels = pixels_of(picture, _number(path), self.largest_grey)
            number = chosen_turn(orientation_of(picture), pixels.shape[:2], size, self.orientation)
        except DataError as error:
            raise DataError(str(error) if str(path) in str(error) else f"{path} {error}") from None
        except Exception as error:  # Pillow decodes only now, and raises almost anything
            raise DataError(f"{path} cannot be decoded ({error}); open its file again") from None
        return turn(pixels, number)

    def _of_array(self, array: NDArray[Any], name: Path) -> NDArray[np.uint8]:
        if array.ndim == 3 and array.shape[2] == 1:
            array = array[:, :, 0]
        digest = xxhash.xxh3_64_hexdigest(np.ascontiguousarray(array).data)
        if self._digests.setdefault(name, digest) != digest:
            raise DataError(f"{name} is an array that has changed since it was predicted on; predict on array.copy()")
        if 0 not in array.shape:
            if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3:
                return np.ascontiguousarray(array)
            if array.dtype == np.uint8 and array.ndim == 2:
                return grey_as_rgb(array)
            if array.dtype == np.uint16 and array.ndim == 2:
                return grey_as_rgb(scaled(array, _number(name), self.largest_grey or 65535))
        raise DataError(
            f"{name} is an array of {array.dtype} and shape {array.shape}, expected uint8 of shape (H, W, 3), red "
            "first, or (H, W), or uint16 of shape (H, W)"
        )


def _number(path: Path) -> str:
    """Of an image that is no file: messages write `image` in front of it."""
    return str(path).removeprefix("image ")


def _existing_file(image: str | Path) -> Path:
    path = Path(image).expanduser()
    if not str(image) or path.is_dir():
        raise DataError(f"image {image or repr(image)} is a folder, expected a file; give a list of its files")
    if not path.exists():
        is_pattern = any(letter in path.name for letter in "*?[")
        hint = (
            f"a pattern is given as Path({str(path.parent)!r}).glob({path.name!r})" if is_pattern else why_missing(path)
        )
        raise DataError(f"image {image} does not exist; {hint or 'give the path of an image file'}")
    return path


def is_one(images: object) -> bool:
    """Whether it is a single image, in place of several."""
    return isinstance(images, _TYPES)


def as_several(images: object) -> Iterable[GivenImage]:
    """The images, or the one image; what is neither is taken for one, and then said to be none."""
    several = isinstance(images, Iterable) and not isinstance(images, (*_TYPES, bytes, bytearray, Mapping, IOBase))
    return images if several else [images]  # type: ignore[return-value, list-item]
