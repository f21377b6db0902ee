"""A class that is named anew starts from its own defaults.

jsonargparse (4.53) keeps the options of the class named before wherever the new class has options of the same name. On
the command line that would be wrong without a word: over a configuration with a half-width MobileNetV2,
`--model.backbone backbones.mobilenet_v2_se` would be half as wide as the published network, and over a saved
configuration `--model.backbone.attention SqueezeExcitation` would inherit coordinate attention's reduction.

A list of classes where one class could stand, such as one operator a stage, jsonargparse writes into a saved
configuration as the text "Unable to serialize instance ...", which nothing reads back; here it is written as a list.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jsonargparse import _typehints


@contextmanager
def own_defaults() -> Iterator[None]:
    """Makes jsonargparse forget the options of a class where another takes its place, until the context ends.

    And write a list of classes as one.
    """
    kept, path_of = _typehints.discard_init_args_on_class_path_change, _typehints.serialize_as_import_path

    def as_import_path(value: Any) -> Any:
        if value is None or isinstance(value, list):  # no function or class: another type of the union writes it
            raise ValueError(f"{value} has no import path")
        return path_of(value)

    _typehints.discard_init_args_on_class_path_change = _forget
    _typehints.serialize_as_import_path = as_import_path
    try:
        yield
    finally:
        _typehints.discard_init_args_on_class_path_change = kept
        _typehints.serialize_as_import_path = path_of


def _forget(_parser: Any, before: Any, now: Any) -> None:
    if before and "init_args" in before and before["class_path"] != now["class_path"]:
        options = before["init_args"]
        (options if isinstance(options, dict) else vars(options)).clear()
