"""Our backbones under MMSegmentation's decode heads.

`mmseg` is imported when a segmentor is built: the import takes seconds that no other program should pay.
"""

import inspect
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from backbones import Backbone
from tasks.batch import Batch
from tasks.class_tensors import ClassRows
from tasks.losses import Losses, split_by_name
from tasks.normalization import Normalization
from tasks.precision import precise, precise_arithmetic
from tasks.segmentors.base import LabelMaps, Segmentor
from tasks.segmentors.inference import Inference, WholeInference
from tasks.segmentors.upsampling import argmax_at

MULTI_LEVEL_HEADS = ("FPNHead", "LightHamHead", "LRASPPHead", "SegformerHead", "UPerHead")
"""Heads that take all features of the backbone unless the config gives an `in_index`."""


class EncoderDecoder(Segmentor):
    """A backbone, an optional neck, a decode head and an optional auxiliary head of MMSegmentation.

    Heads are given as in an MMSegmentation config, for instance
    `decode_head: {type: UPerHead, channels: 512, pool_scales: [1, 2, 3, 6]}`. What follows from the backbone and the
    data set is filled in where the config leaves it out: `num_classes`, `in_channels`, `in_index`, `norm_cfg`
    (batch norm), and for the heads that need them `feature_strides` and `c1_in_channels`.

    Args:
        backbone: Any backbone.
        num_classes: K.
        decode_head: Config of the decode head, with its `type`.
        auxiliary_head: Config of a head that only adds a loss in training; `in_index` chooses its feature.
        neck: Config of a neck between backbone and heads, for instance `{type: FPN, out_channels: 256, num_outs: 4}`.
        inference: Whole image or sliding windows in evaluation. Default: `WholeInference()`.
    """

    decode_head: Any
    auxiliary_head: Any
    neck: Any

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        decode_head: dict[str, Any],
        auxiliary_head: dict[str, Any] | None = None,
        neck: dict[str, Any] | None = None,
        inference: Inference | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.normalization = Normalization()
        self.inference = inference or WholeInference()
        channels, strides = list(backbone.channels), list(backbone.strides)
        self.neck = None
        if neck is not None:
            levels = maps_of_neck(neck, len(channels))
            backbone.use_maps(levels)
            self.neck = build_module(complete_neck(neck, channels, levels))
            channels, strides = [neck["out_channels"]] * neck["num_outs"], list(backbone.strides)[: neck["num_outs"]]
        self.num_classes = num_classes
        given = {"decode_head": decode_head} | ({} if auxiliary_head is None else {"auxiliary_head": auxiliary_head})
        heads = {part: complete_head(config, channels, strides, num_classes) for part, config in given.items()}
        if neck is None:
            read = sorted(set().union(*(maps_of_head(config, len(channels)) for config in heads.values())))
            backbone.use_maps(read)
            heads = {part: with_places(config, read, len(channels)) for part, config in heads.items()}
        self._heads = heads
        self.decode_head = build_module(heads["decode_head"])
        # The head upsamples what its classifier returns, and the layout of that is kept up to the labels.
        classifier = getattr(self.decode_head, "conv_seg", None)  # some heads end otherwise
        if classifier is not None:
            classifier.register_forward_hook(classes_innermost)
        self.auxiliary_head = build_module(heads["auxiliary_head"]) if auxiliary_head is not None else None

    def forward(self, batch: Batch) -> Losses | LabelMaps:
        """Losses of the heads in training, label maps at original resolution otherwise."""
        image = self.normalization(batch["image"], batch["size"])
        return self.losses(image, batch["mask"]) if self.training else self.label_maps(image, batch)

    def features(self, image: Tensor) -> list[Tensor]:
        """Backbone, then neck."""
        features = self.backbone(image)
        return list(features if self.neck is None else self.neck(features))

    def logits(self, image: Tensor) -> Tensor:
        """Logits (B, K, H, W) of normalised images (B, 3, H, W), upsampled by the decode head."""
        meta = {"img_shape": tuple(image.shape[-2:]), "pad_shape": tuple(image.shape[-2:])}
        found: Tensor = self.decode_head.predict(self.features(image), [meta] * len(image), test_cfg=None)
        return found

    def losses(self, image: Tensor, mask: Tensor) -> Losses:
        """Losses of normalised images (B, 3, H, W) with masks (B, H, W)."""
        features = self.features(image)
        samples = data_samples(mask)
        losses = head_losses(self.decode_head, features, samples)
        if self.auxiliary_head is not None:
            auxiliary = head_losses(self.auxiliary_head, features, samples, "aux_")
            losses = Losses(losses | auxiliary, losses.numbers | auxiliary.numbers)
        return losses

    def label_maps(self, image: Tensor, batch: Batch) -> LabelMaps:
        """Most probable class of every original pixel; each image is seen without the padding of its batch."""
        maps = []
        for position, (height, width) in enumerate(batch["size"].tolist()):
            logits = self.inference(image[position : position + 1, :, :height, :width], self.logits)
            original_height, original_width = batch["targets"][position]["original_size"].tolist()
            maps.append(argmax_at(logits, (original_height, original_width)))
        return maps

    def class_tensors(self) -> dict[str, ClassRows | None]:
        """The entries of the heads that have another shape in heads of one class more."""
        from mmseg.registry import MODELS

        found: dict[str, ClassRows | None] = {}
        for part, config in self._heads.items():
            own = getattr(self, part).state_dict()
            with torch.random.fork_rng(devices=[]):  # initialisation draws random numbers
                wider = MODELS.build(with_classes(config, self.num_classes + 1)).state_dict()
            for name, value in wider.items():
                if value.shape != own[name].shape:
                    found[f"{part}.{name}"] = class_axis(own[name], value, self.num_classes)
        return found


def head_losses(head: Any, features: list[Tensor], samples: list[Any], prefix: str = "") -> Losses:
    """Losses of a head, a prefix before their names; in float32, for a sum over all pixels is too large for float16."""
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    if type(head).loss is not BaseDecodeHead.loss:  # a head that does more than logits and then losses
        return split_by_name(head.loss(features, samples, train_cfg=None), prefix)
    logits = precise(head(features))
    with precise_arithmetic():
        return split_by_name(head.loss_by_feat(logits, samples), prefix)


def with_classes(config: Any, num_classes: int) -> Any:
    """A head's config for another number of classes, in the configs that it holds as well."""
    if isinstance(config, list | tuple):
        return [with_classes(part, num_classes) for part in config]
    if not isinstance(config, dict):
        return config
    return {
        name: num_classes if name == "num_classes" else with_classes(value, num_classes)
        for name, value in config.items()
    }


def class_axis(tensor: Tensor, wider: Tensor, num_classes: int) -> ClassRows | None:
    """Where a tensor of K classes holds them, if it differs from that of K + 1 in one axis of just this length."""
    axes = [axis for axis, length in enumerate(tensor.shape) if length != wider.shape[axis]]
    plain = len(axes) == 1 and (tensor.shape[axes[0]], wider.shape[axes[0]]) == (num_classes, num_classes + 1)
    return ClassRows(axis=axes[0]) if plain else None


def classes_innermost(module: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
    """Forward hook that lays logits out as `argmax_at` and the upsampling before it are fastest with."""
    return logits if module.training else logits.contiguous(memory_format=torch.channels_last)


def complete_head(config: dict[str, Any], channels: list[int], strides: list[int], num_classes: int) -> dict[str, Any]:
    """Fills in what a head's config leaves to the backbone and the data set.

    Raises:
        ValueError: The config has no type, its own number of classes or of logits, or an `in_index` that the backbone
            lacks.
    """
    if "type" not in config:
        raise ValueError(
            f"the head config {config} has no type; expected for instance {{type: UPerHead, channels: 512}}"
        )
    if config.get("num_classes", num_classes) != num_classes:
        raise ValueError(
            f"the head config has num_classes {config['num_classes']}, the data set {num_classes}; leave it out"
        )
    if config.get("out_channels", num_classes) != num_classes:
        raise ValueError(
            f"the head config has out_channels {config['out_channels']}, but label maps are the largest of one logit a "
            f"class, here {num_classes}; leave it out"
        )
    multi_level = config["type"] in MULTI_LEVEL_HEADS
    index = config.get("in_index", list(range(len(channels))) if multi_level else len(channels) - 1)
    for level in index if isinstance(index, list) else [index]:
        if not -len(channels) <= level < len(channels):
            raise ValueError(
                f"{config['type']} has in_index {index}, but there are only {len(channels)} features, of stride "
                f"{', '.join(map(str, strides))}; choose from 0 to {len(channels) - 1}, or leave that head out"
            )
    in_channels = [channels[level] for level in index] if isinstance(index, list) else channels[index]
    derived: dict[str, Any] = {
        "in_channels": in_channels,
        "in_index": index,
        "num_classes": num_classes,
    }
    own_norm = inspect.signature(find_class(config["type"])).parameters.get("norm_cfg")
    if own_norm is None or own_norm.default is None:  # transformer heads have a layer norm by default
        derived["norm_cfg"] = {"type": "BN", "requires_grad": True}
    if config["type"] == "FPNHead":
        derived["feature_strides"] = [strides[level] for level in index]
    if config["type"] == "DepthwiseSeparableASPPHead":
        derived["c1_in_channels"] = channels[0]
    return derived | config


def maps_of_head(config: Any, count: int) -> set[int]:
    """Numbers of the maps that a completed head reads of `count` maps, and those that the configs inside it name."""
    if isinstance(config, list | tuple):
        return set().union(*(maps_of_head(part, count) for part in config))
    if not isinstance(config, dict):
        return set()
    index = config.get("in_index", [])
    read = {level % count for level in (index if isinstance(index, list | tuple) else [index])}
    first = {0} if config.get("c1_in_channels") else set()  # DeepLabV3+ reads the finest map without naming it
    return read.union(first, *(maps_of_head(part, count) for part in config.values()))


def with_places(config: Any, read: list[int], count: int) -> Any:
    """A head's config for features of which only those in `read` are left, in the configs that it holds as well."""
    if isinstance(config, list | tuple):
        return [with_places(part, read, count) for part in config]
    if not isinstance(config, dict):
        return config
    placed = {name: with_places(value, read, count) for name, value in config.items()}
    if "in_index" in config:
        index = config["in_index"]
        many = isinstance(index, list | tuple)
        placed["in_index"] = [read.index(level % count) for level in index] if many else read.index(index % count)
    return placed


def maps_of_neck(config: dict[str, Any], count: int) -> range:
    """Numbers of the maps that a neck reads of `count` maps: all, or from its `start_level` up to its `end_level`."""
    end = config.get("end_level", -1)
    return range(config.get("start_level", 0), count if end == -1 else end)


def complete_neck(config: dict[str, Any], channels: list[int], read: range) -> dict[str, Any]:
    """A neck's config for the maps that it reads, with their channels out of those of all maps."""
    completed = {"in_channels": channels, **config}
    if len(read) < len(channels):
        completed = {name: value for name, value in completed.items() if name not in ("start_level", "end_level")}
        completed["in_channels"] = completed["in_channels"][read.start : read.stop]
    return completed


def find_class(name: str) -> type:
    """A class of MMSegmentation's registry.

    Raises:
        ValueError: The registry does not know the name.
    """
    import mmseg.models
    from mmengine.registry import init_default_scope

    import tasks.segmentors.in_mmseg  # noqa: F401 - registers ours

    init_default_scope("mmseg")
    found: type | None = mmseg.registry.MODELS.get(name)
    if found is None:
        raise ValueError(f"MMSegmentation has no {name!r}; see mmseg.models.decode_heads for the heads it has")
    return found


def build_module(config: dict[str, Any]) -> Any:
    """Builds a head or neck from MMSegmentation's registry and initialises it as its config says.

    Raises:
        ValueError: The registry does not know the type.
    """
    from mmengine.logging import MMLogger
    from mmseg.registry import MODELS

    find_class(config["type"])
    if config.get("norm_cfg", {}).get("type") == "SyncBN" and not torch.cuda.is_available():
        rank_zero_info(f"{config['type']}: SyncBN needs GPUs, batch norm takes its place on the CPU")
        config = config | {"norm_cfg": config["norm_cfg"] | {"type": "BN"}}
    MMLogger.get_current_instance().setLevel("WARNING")  # init_weights reports every tensor otherwise
    module: Any = MODELS.build(config)
    module.init_weights()
    return module


def data_samples(mask: Tensor) -> list[Any]:
    """Masks (B, H, W) in the form that MMSegmentation's heads take."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for labels in mask:
        sample = SegDataSample(metainfo={"img_shape": tuple(labels.shape), "pad_shape": tuple(labels.shape)})
        sample.gt_sem_seg = PixelData(data=labels.to(torch.int64)[None])
        samples.append(sample)
    return samples
