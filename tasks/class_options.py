"""A class that is named anew starts from its own defaults.

jsonargparse (4.53) keeps the options of the class named before wherever the new class has options of the same name. On
the command line that would be wrong without a word: over a configuration with a half-width MobileNetV2,
`--model.backbone backbones.mobilenet_v2_se` would be half as wide as the published network, and over a saved
configuration `--model.backbone.attention SqueezeExcitation` would inherit coordinate attention's reduction.

A list of classes where one class could stand, such as one operator a stage, jsonargparse writes into a saved
configuration as the text "Unable to serialize instance ...", which nothing reads back; here it is written as a list.

Of an option within a dictionary (`--model.segmentor.decode_head.norm_cfg.type BN`) it keeps the value as text, and
forgets what stands beside it; here it is read as yaml, null included, and put where it belongs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jsonargparse import _typehints
from jsonargparse._loaders_dumpers import load_value


@contextmanager
def own_defaults() -> Iterator[None]:
    """Makes jsonargparse forget the options of a class where another takes its place, until the context ends.

    And write a list of classes as one, and put options within a dictionary where they belong.
    """
    kept, path_of = _typehints.discard_init_args_on_class_path_change, _typehints.serialize_as_import_path
    adapt = _typehints.adapt_typehints

    def as_import_path(value: Any) -> Any:
        if value is None or isinstance(value, list):  # no function or class: another type of the union writes it
            raise ValueError(f"{value} has no import path")
        return path_of(value)

    def adapt_within(value: Any, hint: Any, *arguments: Any, prev_val: Any = None, **options: Any) -> Any:
        origin = _typehints.get_typehint_origin(hint)
        if isinstance(value, _typehints.NestedArg) and origin in _typehints.mapping_origin_types:
            text = value.val
            loaded = load_value(text, simple_types=True) if isinstance(text, str) else text
            value = _with_entry(prev_val, value.key.split("."), loaded)
        return adapt(value, hint, *arguments, prev_val=prev_val, **options)

    _typehints.adapt_typehints = adapt_within
    _typehints.discard_init_args_on_class_path_change = _forget
    _typehints.serialize_as_import_path = as_import_path
    try:
        yield
    finally:
        _typehints.adapt_typehints = adapt
        _typehints.discard_init_args_on_class_path_change = kept
        _typehints.serialize_as_import_path = path_of


def _forget(_parser: Any, before: Any, now: Any) -> None:
    if before and "init_args" in before and before["class_path"] != now["class_path"]:
        options = before["init_args"]
        (options if isinstance(options, dict) else vars(options)).clear()


def _with_entry(before: Any, path: Sequence[str], value: Any) -> dict[str, Any]:
    """A dictionary with one more entry, or another value of one; those beside it stay."""
    entries = dict(before) if isinstance(before, dict) else {}
    entries[path[0]] = value if len(path) == 1 else _with_entry(entries.get(path[0]), path[1:], value)
    return entries
