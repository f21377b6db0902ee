"""The list of published networks: functions that return a backbone, each with its classification head and figures."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import nn

from backbones.base import Backbone
from backbones.classifier import Classifier
from backbones.weights import load_classifier
from backbones.zoo.options import published_docstring, published_signature

Head = Callable[[Any, int], nn.Module]
Build = TypeVar("Build", bound=Callable[..., Backbone])


@dataclass(frozen=True)
class Entry:
    """A published network.

    Attributes:
        build: The function that returns its backbone; every argument has a default.
        head: Puts the paper's classification head on the backbone, from (backbone, number of classes).
        classification: Arguments of `build` that the classification network needs and dense prediction does not.
    """

    build: Callable[..., Backbone]
    head: Head
    classification: dict[str, Any]


@dataclass(frozen=True)
class Figures:
    """What is published of a network, a row of `zoo.csv`; empty fields are None.

    Attributes:
        parameters: Number of parameters with the classification head of `classes` classes.
        macs: Multiply-accumulates of one image of `size` x `size` pixels, as `tasks.profile.counting` counts them.
        size: Side of the image in pixels.
        classes: Number of classes of the head.
        top1: Published ImageNet top-1 accuracy in percent.
        box_ap: Published COCO box AP in percent, with `notes` on the detector.
        miou: Published ADE20K mIoU in percent, with `notes` on the segmentor.
        source: Where the figures come from.
        reading: `verified` where the published integer or the authors' code agrees with ours, `reconstruction` where
            the network had to be read from text or numbers.
        notes: What a reader of the figures has to know.
    """

    parameters: int
    macs: int
    size: int
    classes: int
    top1: float | None
    box_ap: float | None
    miou: float | None
    source: str
    reading: str
    notes: str


_ENTRIES: dict[str, Entry] = {}


def zoo_entry(head: Head = Classifier, **classification: Any) -> Callable[[Build], Build]:
    """Puts a function that returns a backbone on the list, under its own name.

    The function hands `**options` on to the host's class, which its annotation names. It shows, documents and takes its
    own options, and those of the host that say how a network is used (`backbones.zoo.options.USE`).

    Args:
        head: Puts the paper's classification head on the backbone, from (backbone, number of classes).
        **classification: Arguments of the function that the classification network needs, such as a last convolution
            that dense prediction leaves out.
    """

    def register(build: Build) -> Build:
        if build.__name__ in _ENTRIES:
            raise ValueError(f"two published networks are called {build.__name__}; rename one")

        signature = published_signature(build)

        @wraps(build)
        def named(*arguments: Any, **options: Any) -> Backbone:
            try:
                given = signature.bind(*arguments, **options).arguments
            except TypeError as error:
                raise TypeError(f"{build.__name__}() {error}") from None
            backbone = build(**given)
            backbone.published_name = build.__name__
            return backbone

        named.__doc__ = published_docstring(build, signature)
        named.__annotations__ = {name: option.annotation for name, option in signature.parameters.items()}
        named.__annotations__["return"] = signature.return_annotation
        named.__signature__ = signature  # type: ignore[attr-defined]
        _ENTRIES[build.__name__] = Entry(named, head, classification)
        return cast(Build, named)

    return register


def list_backbones() -> list[str]:
    """Names of all published networks; each is a function `backbones.NAME` that returns a backbone."""
    return sorted(_ENTRIES)


def build_backbone(name: str, **options: Any) -> Backbone:
    """The backbone of a published network, by name and the options of its function."""
    return _entry(name).build(**options)


def backbone_function(name: str) -> Callable[..., Backbone]:
    """The function that returns the backbone of a published network."""
    return _entry(name).build


def classifier(name: str, num_classes: int = 1000, **options: Any) -> nn.Module:
    """A published network with the paper's own classification head.

    Args:
        name: Name of the network, one of `list_backbones()`.
        num_classes: Number of classes of the head, at least 1.
        **options: Options of the network's function. Its `weights` fill the head too, see `backbones.load_classifier`.
    """
    entry = _entry(name)
    weights = options.pop("weights", None)
    network = entry.head(entry.build(**{**entry.classification, **options}), num_classes)
    if weights is not None:
        load_classifier(network, weights)
    return network


@cache
def published_figures() -> dict[str, Figures]:
    """What is published of every network, from `zoo.csv`."""
    with (Path(__file__).parent / "zoo.csv").open(newline="") as file:
        return {row.pop("name"): _figures(row) for row in csv.DictReader(file)}


def _figures(row: dict[str, str]) -> Figures:
    def number(field: str) -> float | None:
        return float(row[field]) if row[field] else None

    return Figures(
        parameters=int(row["parameters"]),
        macs=int(row["macs"]),
        size=int(row["size"]),
        classes=int(row["classes"]),
        top1=number("top1"),
        box_ap=number("box_ap"),
        miou=number("miou"),
        source=row["source"],
        reading=row["reading"],
        notes=row["notes"],
    )


def _entry(name: str) -> Entry:
    if name not in _ENTRIES:
        from difflib import get_close_matches

        close = ", ".join(get_close_matches(name, _ENTRIES, 3, 0.5)) or "call backbones.list_backbones()"
        raise ValueError(f"name={name!r} is no published network; did you mean {close}?")
    return _ENTRIES[name]
