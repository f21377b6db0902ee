"""Our backbones under MMSegmentation's decode heads.

`mmseg` is imported when a segmentor is built: the import takes seconds that no other program should pay.
"""

from typing import Any

import torch
from torch import Tensor, nn

from backbones import Backbone
from tasks.batch import Batch
from tasks.class_tensors import ClassRows
from tasks.losses import Losses
from tasks.normalization import Normalization
from tasks.segmentors.base import LabelMaps, SeeImage, Segmentor
from tasks.segmentors.head_config import check_cascade, check_decoder, complete_head, maps_of_head, with_places
from tasks.segmentors.head_steps import class_rows, data_samples, losses_and_logits, predicted_logits
from tasks.segmentors.inference import Inference, Reading, WholeInference
from tasks.segmentors.neck_config import complete_neck, maps_behind, maps_of_neck
from tasks.segmentors.parts import build_part

HeadConfig = dict[str, Any]
"""Config of a head of MMSegmentation, with its `type`."""


class EncoderDecoder(Segmentor):
    """A backbone, an optional neck, a decode head and optional auxiliary heads of MMSegmentation.

    Heads are given as in an MMSegmentation config, for instance
    `decode_head: {type: UPerHead, channels: 512, pool_scales: [1, 2, 3, 6]}`; docs/segmentors.md lists them. What
    follows from the backbone and the data set is filled in where the config leaves it out: `num_classes`,
    `in_channels`, `in_index`, `norm_cfg` (batch norm), and what else the signature of a head asks for. Losses are
    `loss_decode`, one or a list; `class_weight: balanced` with `pixel_counts: FILE` makes all classes count the same.
    Two classes may have a single logit, as `out_channels: 1` and `threshold`.

    Args:
        backbone: Any backbone.
        num_classes: K, at least 2.
        decode_head: Config of the decode head; of several in a list each later one, `OCRHead` or `PointHead`, starts
            from the logits of the one before.
        auxiliary_head: Config of a head, or of several, that only adds a loss in training; `in_index` chooses its map.
        neck: Config of a neck between backbone and heads, for instance `{type: FPN, out_channels: 256, num_outs: 4}`,
            or `{type: JPU, start_level: 1}`.
        inference: Whole image or sliding windows in evaluation. Default: `WholeInference()`.
    """

    decode_head: Any
    auxiliary_head: Any
    neck: Any

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        decode_head: HeadConfig | list[HeadConfig],
        auxiliary_head: HeadConfig | list[HeadConfig] | None = None,
        neck: dict[str, Any] | None = None,
        inference: Inference | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(
                f"num_classes is {num_classes}, expected at least 2: a pixel gets the most probable class, and of one "
                "class that is always the same; give what is not that class a class, too, as in "
                "--data LabelMasks --data.values '{0: background, 1: road}'"
            )
        self.backbone = backbone
        self.normalization = Normalization()
        self.inference = inference or WholeInference()
        self.num_classes = num_classes
        channels, strides = list(backbone.channels), list(backbone.strides)
        self.neck = None
        if neck is not None:
            levels = maps_of_neck(neck, len(channels))
            neck = complete_neck(neck, channels, levels)
            backbone.use_maps(levels)
            self.neck = build_part(neck)
            channels, strides = maps_behind(neck, list(backbone.channels), list(backbone.strides))
        given = _by_part("decode_head", decode_head) | _by_part("auxiliary_head", auxiliary_head)
        heads = {part: complete_head(config, channels, strides, num_classes) for part, config in given.items()}
        _check_order(heads)
        if neck is None:
            read = sorted(set().union(*(maps_of_head(config, len(channels)) for config in heads.values())))
            backbone.use_maps(read)
            heads = {part: with_places(config, read, len(channels)) for part, config in heads.items()}
        self._heads, self._neck = heads, neck
        built = {part: build_part(config) for part, config in heads.items()}
        self.decode_head = _together("decode_head", built)
        self.auxiliary_head = _together("auxiliary_head", built)

    def forward(self, batch: Batch) -> Losses | LabelMaps:
        """Losses of the heads in training, label maps at original resolution otherwise."""
        if not self.training:
            return self.label_maps(batch)
        return self.losses(self.normalization(batch["image"], batch["size"]), batch["mask"])

    def normalized(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 without padding as the network sees them."""
        return self.normalization(images, torch.tensor([images.shape[-2:]], device=images.device))

    def features(self, image: Tensor) -> list[Tensor]:
        """Backbone, then neck."""
        features = self.backbone(image)
        return list(features if self.neck is None else self.neck(features))

    def logits(self, image: Tensor) -> Tensor:
        """Logits (B, K, H, W) of normalised images (B, 3, H, W), upsampled by the decode head."""
        return predicted_logits(self._stages(), self.features(image), (image.shape[-2], image.shape[-1]))

    def losses(self, image: Tensor, mask: Tensor) -> Losses:
        """Losses of normalised images (B, 3, H, W) with masks (B, H, W)."""
        features, samples = self.features(image), data_samples(mask)
        found, previous = Losses({}), None
        for part in self._heads:
            name, _, number = part.partition(".")
            prefix = "aux_" if name == "auxiliary_head" else "decode_" if number else ""
            prefix += f"{number}_" if number else ""
            before = previous if name == "decode_head" else None
            losses, previous = losses_and_logits(self.get_submodule(part), features, samples, prefix, before)
            found = Losses(found | losses, found.numbers | losses.numbers)
        return found

    def label_maps(self, batch: Batch, see: SeeImage | None = None) -> LabelMaps:
        """The class of every original pixel; each image is seen without the padding of its batch."""
        head, maps = self._stages()[-1], []
        threshold = float(head.threshold) if head.out_channels == 1 else None
        for position, (height, width) in enumerate(batch["size"].tolist()):
            views = [batch["image"][position, :, :height, :width]]
            views = batch["views"][position] if "views" in batch else views
            original_height, original_width = batch["targets"][position]["original_size"].tolist()
            # Windows are normalised one by one, so that no large image exists in floating point.
            maps.append(
                self.inference.labels(
                    [view[None] for view in views],
                    lambda windows: self.logits(self.normalized(windows)),
                    (original_height, original_width),
                    Reading(head.align_corners, threshold, None if see is None else see(position)),
                )
            )
        return maps

    def windows(self, height: int, width: int) -> list[tuple[slice, slice]]:
        """Those of the inference."""
        return self.inference.windows(height, width)

    def loss_modules(self) -> list[nn.Module]:
        """Some heads give more in training than in evaluation, which their losses need."""
        return [self, *(self.get_submodule(part) for part in self._heads)]

    @property
    def part_configs(self) -> dict[str, HeadConfig]:
        """Configs of neck and heads by the names of these parts."""
        return self._heads | ({} if self._neck is None else {"neck": self._neck})

    def class_tensors(self) -> dict[str, ClassRows | None]:
        """The entries of the heads that have another shape in heads of one class more."""
        return {
            f"{part}.{name}": rows
            for part, config in self._heads.items()
            for name, rows in class_rows(self.get_submodule(part), config, self.num_classes).items()
        }

    @property
    def head_name(self) -> str:
        """Names of the decode heads, for tables."""
        return " + ".join(type(head).__name__ for head in self._stages())

    def _stages(self) -> list[Any]:
        return [self.get_submodule(part) for part in self._heads if part.startswith("decode_head")]


def _by_part(name: str, given: HeadConfig | list[HeadConfig] | None) -> dict[str, HeadConfig]:
    """Configs by the names of the modules that are built of them, which are MMSegmentation's."""
    if isinstance(given, list):
        return {f"{name}.{number}": config for number, config in enumerate(given)}
    return {} if given is None else {name: given}


def _together(name: str, built: dict[str, Any]) -> Any:
    """The module of this name: the only one, a list of them, or None."""
    parts = [module for part, module in built.items() if part.startswith(name)]
    return nn.ModuleList(parts) if f"{name}.0" in built else next(iter(parts), None)


def _check_order(heads: dict[str, HeadConfig]) -> None:
    """Refuses heads where they cannot be.

    Raises:
        ValueError: A head needs one before it or stands behind one for nothing, or the last one finds no classes.
    """
    decoders = [config for part, config in heads.items() if part.startswith("decode_head")]
    if not decoders:
        raise ValueError("decode_head is an empty list; give at least one head")
    check_cascade(decoders)
    check_decoder(decoders[-1])
    for part, config in heads.items():
        if part.startswith("auxiliary_head"):
            check_cascade([config])
