"""hotcoco reads one flat folder of label files: they are laid out for it under numbers, and get their names back."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hotcoco import COCO

from datamodules.errors import DataError

NUMBER = "{:09}"


@contextmanager
def staged(sources: Sequence[Path]) -> Iterator[Path]:
    """A folder for label files named by the places of their sources; what is wrong is told of the source.

    Args:
        sources: The label files that the numbered ones are made from.

    Raises:
        DataError: hotcoco does not understand one of them.
    """
    with TemporaryDirectory(prefix="attndense-convert-") as folder:
        try:
            yield Path(folder)
        except ValueError as error:
            text = str(error).removeprefix("parse error: ")
            named = re.sub(rf"{re.escape(folder)}/(\d+)\.\w+", lambda found: str(sources[int(found[1])]), text)
            raise DataError(f"{named}; correct the file") from None


def read_annotations(read: Callable[[], COCO], count: int) -> list[list[dict[str, Any]]]:
    """The annotations of each of the numbered files, in the order of the file.

    Args:
        read: hotcoco's reader.
        count: How many files there are.
    """
    dataset = read().dataset
    if len(dataset["images"]) != count:
        raise RuntimeError(f"hotcoco has read {len(dataset['images'])} of {count} label files")
    places = {image["id"]: place for place, image in enumerate(dataset["images"])}  # in the order of the numbers
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    found: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    for record in dataset["annotations"]:
        found[places[record["image_id"]]].append({**record, "name": names[record["category_id"]]})
    return found
