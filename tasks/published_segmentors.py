"""Published weights of MMSegmentation's segmentors, versions 0.x and 1, and of codes that are built on it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from backbones import Backbone
from tasks.class_tensors import DenseModel
from tasks.errors import TaskError
from tasks.published_base import PublishedWeights, names_in_meta
from tasks.segmentors import EncoderDecoder
from tasks.segmentors.conversions.config_text import model_config
from tasks.segmentors.conversions.hosts import host_of
from tasks.segmentors.conversions.options import backbone_differences, part_differences

_ADE20K = {"television receiver": "television"}  # what `objectInfo150.txt` calls a class first


@dataclass(frozen=True)
class PublishedSegmentor(PublishedWeights):
    """Weights of a segmentor of MMSegmentation's, which name its heads and necks as this package does.

    Attributes:
        config: The config of the model beside the weights; None where there is none.
        host: The backbone of this package that the config describes; None for one that is not known here.
    """

    config: Mapping[str, Any] | None
    host: Backbone | None

    @property
    def name(self) -> str:
        """Heads and backbone, and how the published scores were found where that was not in one piece."""
        if self.config is None:
            return "segmentor without its config: options that the weights do not show are not compared"
        heads = " + ".join(str(head.get("type")) for head in _by_part("", self.config.get("decode_head")).values())
        backbone, test = self.config.get("backbone", {}).get("type"), self.config.get("test_cfg") or {}
        windows = f", scored in windows of {test.get('crop_size')} pixels, {test.get('stride')} apart"
        return f"{heads} on {backbone}{windows if test.get('mode') == 'slide' else ''}"

    def missing_options(self, model: DenseModel) -> dict[str, object]:
        """Options of backbone, neck and heads by the config beside the weights."""
        if not isinstance(model, EncoderDecoder):
            return {"--model.segmentor": "tasks.segmentors.EncoderDecoder"}
        if self.config is None:
            return {}
        found = {"backbone": {} if self.host is None else backbone_differences(model.backbone, self.host)}
        own = model.part_configs
        theirs = {"neck": self.config["neck"]} if self.config.get("neck") else {}
        for name in ("decode_head", "auxiliary_head"):
            theirs |= _by_part(name, self.config.get(name))
        for part in dict.fromkeys([*theirs, *own]):
            found[f"segmentor.{part}"] = part_differences(own.get(part), theirs.get(part))
        return {
            f"--model.{part}{'.' * bool(option)}{option}": value
            for part, options in found.items()
            for option, value in options.items()
        }


def is_mmsegmentation(names: Iterable[str]) -> bool:
    """Whether entries are those of a segmentor of MMSegmentation's."""
    return any(name.startswith("decode_head.") for name in names)


def of_mmsegmentation(state: dict[str, Tensor], meta: Mapping[str, Any], path: str | Path) -> PublishedSegmentor:
    """The segmentor in a file of MMSegmentation's.

    Args:
        state: Its entries, without wrappers.
        meta: What the file says beside them.
        path: The file, for messages.

    Raises:
        TaskError: Its config describes something that nothing here computes.
    """
    config = model_config(meta)
    try:
        host = None if config is None else host_of(config.get("backbone", {}))
    except ValueError as error:
        raise TaskError(f"--model.weights: {path} {error}") from error
    classifiers = [len(value) for name, value in state.items() if name.endswith("conv_seg.weight")]
    heads = _by_part("", (config or {}).get("decode_head"))
    outputs = [head["num_classes"] for head in heads.values() if "num_classes" in head] or classifiers or [0]
    names = _class_names(meta, outputs[-1])
    return PublishedSegmentor("MMSegmentation", EncoderDecoder, state, outputs[-1], names, {}, config, host)


def _class_names(meta: Mapping[str, Any], count: int) -> list[str]:
    """Names in the file, or ADE20K's if there are as many classes; spelt as in the data set's own list."""
    names = names_in_meta(meta, count)
    if not names and count == 150:
        from mmseg.utils import ade_classes

        names = ade_classes()
    names = [name.strip() for name in names]
    return [_ADE20K.get(name, name) for name in names] if count == 150 else names


def _by_part(name: str, given: Any) -> dict[str, Mapping[str, Any]]:
    """Configs of one part or of several in a list, by the names of the modules that are built of them."""
    if isinstance(given, list):
        return {f"{name}.{number}": config for number, config in enumerate(given)}
    return {} if given is None else {name: given}
