"""Decode heads around any attention of this library, for MMSegmentation's registry.

`tasks.segmentors.in_mmseg` registers them; importing this file takes the seconds that importing MMSegmentation takes.
"""

import inspect
from collections.abc import Mapping
from functools import partial
from pydoc import locate
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

import attention
from attention.base import Refine, check_at_least
from tasks.near_names import instead

AttentionConfig = str | Mapping[str, Any]
"""Name of a class, or `{type: NAME, ...}` with its options; classes of other packages by their dotted path.

One around another has it as `operator`: `{type: IdentityStart, operator: CBAM}`.
"""


class AttentionHead(BaseDecodeHead):
    """A map narrowed, refined by an attention, and classified.

        y = conv1x1(attention(conv3x3(x)))          (B, channels, H, W), every convolution with norm and activation
        logits = W [y; image(x); x]                                                          (B, K, H, W)

    `image(x)`, the mean of the map through a 1 x 1 convolution, and x itself are added by option; what has been
    concatenated is narrowed to `feature_channels` by a 1 x 1 convolution first. With criss-cross attention and
    `repeats: 2` this is CCNet's head (arXiv 1811.11721) without its compiled operator.

    Args:
        in_channels: Channels of the map.
        channels: Channels that the attention works on.
        attention: Which attention: `CBAM`, or `{type: CBAM, reduction: 8}`, or `none`, the control.
        repeats: How often the same attention is applied, with the same weights.
        image_level: Whether the mean of the whole map takes part.
        concat_input: Whether the map itself takes part.
        feature_channels: Channels that what was concatenated is narrowed to. Default: `channels`.
        options: Those of every decode head of MMSegmentation.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        attention: AttentionConfig,
        repeats: int = 1,
        image_level: bool = False,
        concat_input: bool = False,
        feature_channels: int | None = None,
        **options: Any,
    ) -> None:
        check_at_least(1, channels=channels, repeats=repeats)
        joined = image_level or concat_input
        classified = feature_channels or channels
        if not joined and classified != channels:
            raise ValueError(
                f"feature_channels is {feature_channels}, but nothing is concatenated; leave it out, or add "
                "image_level or concat_input"
            )
        super().__init__(in_channels, classified, **options)
        self.repeats, self.concat_input = repeats, concat_input
        self.entry = self._convolution(in_channels, channels, 3)
        self.attention = nn.Identity() if attention == "none" else build_attention(attention, channels)
        self.end = self._convolution(channels, channels, 1)
        self.image_level = self._convolution(in_channels, channels, 1) if image_level else None
        width = channels * (1 + image_level) + in_channels * concat_input
        self.fusion = self._convolution(width, classified, 1) if joined else None

    def extra_repr(self) -> str:
        """What `print` says of it beside its parts."""
        return f"{super().extra_repr()}, repeats={self.repeats}"

    def _convolution(self, in_channels: int, out_channels: int, kernel: int) -> ConvModule:
        return ConvModule(
            in_channels,
            out_channels,
            kernel,
            padding=kernel // 2,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
        )

    def forward(self, inputs: Any) -> Tensor:
        """Logits (B, K, H, W)."""
        x: Tensor = self._transform_inputs(inputs)
        y = self.entry(x)
        for _ in range(self.repeats):
            y = self.attention(y)
        parts = [self.end(y)]
        if self.image_level is not None:
            parts.append(self.image_level(x.mean(dim=(2, 3), keepdim=True)).expand_as(parts[0]))
        if self.concat_input:
            parts.append(x)
        joined = parts[0] if self.fusion is None else self.fusion(torch.cat(parts, dim=1))
        logits: Tensor = self.cls_seg(joined)
        return logits


class CAAHead(AttentionHead):
    """Channelized axial attention (Huang et al., AAAI 2022, arXiv 2101.07434).

    `AttentionHead` with `attention.ChannelizedAxialAttention` and an image-level branch of the backbone's map: with
    2048 channels and 150 classes 11,774,358 parameters. The authors train a second head beside it, on the same map:
    `auxiliary_head: {type: FCNHead, channels: 256, num_convs: 1, kernel_size: 1, concat_input: false,
    loss_decode: {type: CrossEntropyLoss, loss_weight: 0.4}}`.

    Args:
        in_channels: Channels of the map.
        channels: Channels that the axial attention works on.
        num_classes: K.
        key_channels: Channels of the shared projection of queries and keys of each axis.
        channelization: Gates: `deep` as published, `plain` with one hidden layer, or `none` for axial attention alone.
        reduction: Divisor of the gates' hidden width.
        feature_channels: Channels of the map that is classified.
        norm_cfg: Norms, those inside the attention too; the authors' framework has `{type: BN, eps: 1.0e-3}`.
        options: Those of every decode head of MMSegmentation.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 512,
        *,
        num_classes: int,
        key_channels: int = 64,
        channelization: str = "deep",
        reduction: int = 4,
        feature_channels: int = 256,
        norm_cfg: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        axial = {
            "type": "ChannelizedAxialAttention",
            "key_channels": key_channels,
            "channelization": channelization,
            "reduction": reduction,
            "epsilon": (norm_cfg or {}).get("eps", 1e-5),
        }
        super().__init__(
            in_channels,
            channels,
            attention=axial,
            image_level=True,
            feature_channels=feature_channels,
            num_classes=num_classes,
            norm_cfg=norm_cfg or {"type": "BN", "requires_grad": True},
            **options,
        )


def build_attention(config: AttentionConfig, channels: int) -> Refine:
    """Builds the attention that a head's config names.

    Raises:
        ValueError: There is none of this name that keeps the shape of its map, or it has no such option.
    """
    options: dict[str, Any] = {"type": config} if isinstance(config, str) else dict(config)
    name = str(options.pop("type", ""))
    found = locate(name) if "." in name else getattr(attention, name, None)
    if not (inspect.isclass(found) and issubclass(found, Refine)):
        known = [entry for entry in attention.__all__ if _is_refinement(getattr(attention, entry))]
        raise ValueError(
            f"{name!r} is no attention that refines a map{instead(name, known)}; a class of another package, derived "
            "from attention.base.Refine, is named by its dotted path"
        )
    known = [*inspect.signature(found).parameters][1:]
    if wrong := [option for option in options if option not in known]:
        raise ValueError(f"{name} has no option {wrong[0]}{instead(wrong[0], known)}")
    if "operator" in options:  # of what is wrapped around another attention
        options["operator"] = partial(build_attention, options["operator"])
    if isinstance(options.get("parts"), list):  # as those of Compose and Parallel
        options["parts"] = [partial(build_attention, part) for part in options["parts"]]
    built: Refine = found(channels, **options)
    return built


def _is_refinement(entry: object) -> bool:
    return inspect.isclass(entry) and issubclass(entry, Refine) and not inspect.isabstract(entry)
