"""Swin Transformer (Liu et al., ICCV 2021, arXiv 2103.14030) as a host of attention in place of its windows.

The network is torchvision's and keeps torchvision's parameter names, of blocks from `swin_block.py`. What is written
here is what dense prediction adds: maps of every stage, images of every size, and places for operators.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import Swin_B_Weights, Swin_S_Weights, Swin_T_Weights, WeightsEnum, swin_transformer
from torchvision.ops.misc import Permute

from attention.base import Mixer, Refine, check_at_least, check_choice, check_divides
from attention.local_filter import LocalFilter
from backbones.base import Backbone
from backbones.checkpointing import checkpointed
from backbones.conversions.swin import from_any_swin, resized_table
from backbones.places import (
    STAGES,
    Blocks,
    Mixers,
    Refinements,
    between_modules,
    by_stage,
    check_stages,
    chosen,
    places,
)
from backbones.swin_block import Block, WindowAttention, refined_last
from backbones.weights import load_weights

OutNorms = Literal["each", "last"]
AttentionPosition = Literal["mixed", "mlp"]

_SIZES = {(96, 2, 2, 6, 2): "T", (96, 2, 2, 18, 2): "S", (128, 2, 2, 18, 2): "B"}
_PUBLISHED = {"T": Swin_T_Weights, "S": Swin_S_Weights, "B": Swin_B_Weights}
_HEAD_CHANNELS = 32


class Swin(Backbone):
    """Swin Transformer, or the same network with another operator in place of window attention.

    Features are the outputs of the four stages at strides 4, 8, 16 and 32, with C, 2 C, 4 C and 8 C channels, in the
    memory format channels_last. Images of every size are accepted: like the published detectors and segmentors, this
    network fills up the last patch, the last pair of cells before a merge, and the last window with zeros.

    Each block is x + A(LN(x)) followed by x + MLP(LN(x)), where A is attention in windows of w x w cells, shifted by
    floor(w / 2) in every other block, with heads of 32 channels. A `mixer` takes the place of A in chosen stages; the
    windows of a `LocalFilter` are shifted likewise.

    Published codes differ in two places:

    - Where the image is no multiple of the patch, torchvision drops the last, partial patch instead of filling it up.
    - Where one window covers a side of the map, torchvision and this network do not shift along that side. Microsoft's
      and ELSA's code for classification then shifts along neither side (`shift_together`): another network for the last
      stage of an image of 448 x 224 pixels. It also shrinks windows to maps that are smaller than one, which this does
      not. Code for detection and segmentation (MMDetection's and MMSegmentation's too) always shifts, and masks
      (`shift_small_maps`).

    Parameters without classifier: 27,520,698 (T), 48,838,602 (S), 86,745,016 (B), with four output normalisations. In
    training, normalisations, biases and `relative_position_bias_table` are published without weight decay.

    Args:
        embed_channels: Number of channels C of the first stage.
        depths: Number of blocks of each stage.
        window: Side w of a window in cells.
        heads: Number of heads of window attention in each stage; none gives each 32 channels, as published.
        relative: Whether window attention has its learned bias by offset.
        mixer: Operator instead of window attention, made from (channels, channels, stride 1), or a list with one for
            each of the four stages; none keeps the windows.
        mixer_stages: Stages that receive the `mixer`, numbers from 1 (stride 4) to 4 (stride 32).
        mixer_blocks: Blocks of these stages that do: `every`, the `last`, a number n for every n-th, or a list of
            numbers from 1.
        attention: Refinement to insert in blocks, made from their channels, or a list with one for each of the four
            stages; none gives the plain network.
        attention_position: `mixed`: behind A, before the addition; `mlp`: behind the MLP, before the addition.
        attention_stages: Stages that receive attention, numbers from 1 to 4.
        attention_blocks: Blocks of these stages that do, as `mixer_blocks`.
        attention_between: Operator behind the last block of stages, made from their channels.
        between_stages: Stages that have one, numbers from 1 to 4.
        out_norms: `each`: layer normalisation of every feature map, as published detectors and segmentors have it;
            `last`: of the last one only, as the classification network has it.
        out_indices: Numbers of the maps to return, from 0; none returns all four. The detectors and segmentors of this
            package choose what they read by themselves, among these.
        drop_path: Probability of skipping the last block's branches in training; it rises linearly from 0 at the first
            block.
        shift_small_maps: Whether to shift windows along sides that one window covers.
        shift_together: Whether to shift windows along no side where one window covers a side.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1 (stride 4), up to 5,
            everything.
        checkpointing: Whether blocks compute their intermediate results again in the backward pass to save memory.
        weights: `imagenet` for torchvision's weights, or the path of a file in the layout of torchvision, of the
            authors, of timm, or of MMDetection and MMSegmentation; none leaves the random initialisation.
    """

    def __init__(
        self,
        embed_channels: int = 96,
        depths: tuple[int, int, int, int] = (2, 2, 6, 2),
        window: int = 7,
        heads: tuple[int, int, int, int] | None = None,
        relative: bool = True,
        mixer: Mixers = None,
        mixer_stages: tuple[int, ...] = STAGES,
        mixer_blocks: Blocks = "every",
        attention: Refinements = None,
        attention_position: AttentionPosition = "mixed",
        attention_stages: tuple[int, ...] = STAGES,
        attention_blocks: Blocks = "every",
        attention_between: Callable[[int], Refine] | None = None,
        between_stages: tuple[int, ...] = (1, 2, 3),
        out_norms: OutNorms = "each",
        out_indices: tuple[int, ...] | None = None,
        drop_path: float = 0.2,
        shift_small_maps: bool = False,
        shift_together: bool = False,
        frozen_stages: int = 0,
        checkpointing: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        check_at_least(1, embed_channels=embed_channels, window=window, depths=min(depths))
        if heads is None:
            check_divides("embed_channels", embed_channels, "the channels of a head", _HEAD_CHANNELS)
            heads = tuple(embed_channels * 2**index // _HEAD_CHANNELS for index in range(4))
        check_at_least(1, heads=min(heads))
        check_choice("out_norms", out_norms, get_args(OutNorms))
        check_stages(mixer_stages=mixer_stages, attention_stages=attention_stages, between_stages=between_stages)
        check_choice("attention_position", attention_position, get_args(AttentionPosition))
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path={drop_path} is no probability below 1; give one such as 0.2")
        if shift_small_maps and shift_together:
            raise ValueError("shift_small_maps and shift_together contradict each other; set one of them")
        self.embed_channels, self.depths, self.window = embed_channels, tuple(depths), window
        self.heads, self.relative = tuple(heads), relative
        self.shift_small_maps, self.shift_together = shift_small_maps, shift_together
        self.channels = tuple(embed_channels * 2**index for index in range(4))
        self.strides = (4, 8, 16, 32)
        self.size = _SIZES.get((embed_channels, *depths))
        self.checkpointing = checkpointing

        stem = nn.Sequential(nn.Conv2d(3, embed_channels, 4, 4), Permute([0, 2, 3, 1]), nn.LayerNorm(embed_channels))
        layers: list[nn.Module] = [stem]
        before, last = 0, max(1, sum(depths) - 1)
        mixers = by_stage(mixer, tuple(mixer_stages), "mixer")
        for number, (channels, depth, count) in enumerate(zip(self.channels, depths, heads, strict=True), start=1):
            if number > 1:
                layers.append(swin_transformer.PatchMerging(channels // 2))
            check_divides(f"channels of stage {number}", channels, "heads", count)
            blocks = []
            mix = mixers[number - 1]
            mixed = chosen(range(depth), mixer_blocks, "mixer_blocks") if mix is not None else []
            for index in range(depth):
                if mix is not None and index in mixed:
                    mixing: nn.Module = mix(channels, channels, 1)
                    if index % 2 and isinstance(mixing, LocalFilter) and mixing.application == "window":
                        mixing.shift_windows(mixing.kernel_size // 2)
                else:
                    mixing = WindowAttention(
                        channels,
                        window,
                        index % 2 * (window // 2),
                        count,
                        shift_small_maps,
                        shift_together,
                        relative,
                    )
                blocks.append(Block(channels, count, drop_path * (before + index) / last, mixing))
            layers.append(nn.Sequential(*blocks))
            before += depth
        self.features = nn.Sequential(*layers)
        self.out_norms: OutNorms = out_norms
        if out_norms == "each":
            self.norm0, self.norm1, self.norm2, self.norm3 = map(nn.LayerNorm, self.channels)
            self.classifier_prefixes = (*self.classifier_prefixes, "norm.")
        else:
            self.norm = nn.LayerNorm(self.channels[-1])
            self.classifier_prefixes = (*self.classifier_prefixes, "norm0.", "norm1.", "norm2.", "norm3.")
        _initialise(self.features)
        # After the host's own initialisation, which would overwrite that of the operators.
        stages = [[block for block in self._blocks(index) if isinstance(block, Block)] for index in range(4)]
        for block, refine in places(stages, attention, attention_stages, attention_blocks):
            setattr(block, f"refine_{attention_position}", refine(block.channels))
        self.between = between_modules(self.channels, attention_between, between_stages)
        if weights is not None:
            load_weights(self, weights)
        if out_indices is not None:
            self.use_maps(out_indices)
        self.freeze(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x` (B, 3, H, W) after each of the four stages, finest first."""
        x = self._patches(x)
        features = []
        for index, norm in enumerate(self._norms()):
            if index:
                x = self.features[2 * index](x)
            for block in self._blocks(index):
                x = checkpointed(block, x) if self.checkpointing else block(x)
            if str(index) in self.between:
                x = refined_last(self.between[str(index)], x)
            features.append(norm(x).permute(0, 3, 1, 2))
        return features

    def stages(self) -> list[list[nn.Module]]:
        """The stem; then of each stage the patch merging, the blocks and the normalisation of its map."""
        stages: list[list[nn.Module]] = [[self.features[0]]]
        for index, norm in enumerate(self._norms()):
            merging = [self.features[2 * index]] if index else []
            norms = [] if isinstance(norm, nn.Identity) else [norm]
            between = [self.between[str(index)]] if str(index) in self.between else []
            stages.append([*merging, *self._blocks(index), *between, *norms])
        return stages

    def unused_parts(self, maps: tuple[int, ...]) -> list[nn.Module]:
        """What stands behind the last map, and the normalisations of the others."""
        others = [norm for index, norm in enumerate(self._norms()) if index < maps[-1] and index not in maps]
        return [*super().unused_parts(maps), *(norm for norm in others if isinstance(norm, nn.LayerNorm))]

    @property
    def label(self) -> str:
        """Name of the network without its attention."""
        return f"Swin-{self.size}" if self.size else "Swin"

    def network_options(self) -> dict[str, object]:
        """The options that say what is computed beside the mixers."""
        names = ("embed_channels", "depths", "window", "heads", "relative", "out_norms")
        return {name: getattr(self, name) for name in (*names, "shift_small_maps", "shift_together")}

    def published_weights(self) -> WeightsEnum | None:
        """ImageNet weights of torchvision, where it has this size."""
        return _PUBLISHED[self.size].DEFAULT if self.size else None

    def inserted_prefixes(self) -> tuple[str, ...]:
        """Beginnings of the names that classification networks lack: mixers, and normalisations of feature maps."""
        norms = ("norm0.", "norm1.", "norm2.", "norm3.") if self.out_norms == "each" else ()
        return (*super().inserted_prefixes(), *norms)

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Entries in the layout of torchvision, the authors, timm, MMDetection or MMSegmentation under our names."""
        return from_any_swin(state)

    def resize(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Tables of relative positions for another window."""
        return resized_table(value, shape) if name.endswith(".relative_position_bias_table") else None

    def _patches(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) as patches (B, ceil(H / 4), ceil(W / 4), C)."""
        below, right = -x.shape[2] % 4, -x.shape[3] % 4
        if torch.compiler.is_exporting() or below or right:
            x = F.pad(x, (0, right, 0, below))
        patches: Tensor = self.features[0](x)
        return patches

    def _norms(self) -> list[nn.Module]:
        if self.out_norms == "each":
            return [self.norm0, self.norm1, self.norm2, self.norm3]
        return [nn.Identity(), nn.Identity(), nn.Identity(), self.norm]

    def _blocks(self, index: int) -> list[nn.Module]:
        stage = self.features[2 * index + 1]
        assert isinstance(stage, nn.Sequential)
        return list(stage)


def _initialise(module: nn.Module) -> None:
    """The published initialisation of linear layers, for all but the mixers, which bring their own."""
    for child in module.children():
        if isinstance(child, nn.Linear):
            nn.init.trunc_normal_(child.weight, std=0.02)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif not isinstance(child, Mixer):
            _initialise(child)
