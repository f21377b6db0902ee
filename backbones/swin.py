"""Swin Transformer (Liu et al., ICCV 2021, arXiv 2103.14030) as a host of attention in place of its windows.

The network is torchvision's and keeps torchvision's parameter names. What is written here is the window attention,
which computes the same in fewer passes, and what dense prediction adds: maps of every stage, and images of every size.
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
from backbones.gelu_linear import gelu_linear
from backbones.places import STAGES, Blocks, Mixers, Refinements, by_stage, check_stages, chosen, places
from backbones.weights import load_weights

OutNorms = Literal["each", "last"]
AttentionPosition = Literal["mixed", "mlp"]

_SIZES = {(96, 2, 2, 6, 2): "T", (96, 2, 2, 18, 2): "S", (128, 2, 2, 18, 2): "B"}
_PUBLISHED = {"T": Swin_T_Weights, "S": Swin_S_Weights, "B": Swin_B_Weights}
_HEAD_CHANNELS = 32
_SMALLEST = torch.finfo(torch.float32).tiny  # normal number
_OTHER_REGION = -100.0  # added to the scores of keys that a shift brought from the other side of the map


class WindowAttention(swin_transformer.ShiftedWindowAttention):
    """Attention within windows of w x w tokens, every other block's shifted by w // 2 (arXiv 2103.14030, section 3.2).

    Maps are channels last. Tokens that fill up the last windows are zero before the projection and count as keys.

    Args:
        channels: Number of channels C.
        window: Side w of a window, and distance that it is shifted by, in tokens, for both directions.
        shift: Distance that windows are shifted by, 0 for none.
        heads: Number of heads.
        shift_small_maps: Whether windows are also shifted along sides that one window covers.
        shift_together: Whether windows are shifted along both sides or along none.
        relative: Whether a learned bias by offset is added to the scores.
    """

    position_tables = ("relative_position_bias_table",)

    def __init__(
        self,
        channels: int,
        window: int,
        shift: int,
        heads: int,
        shift_small_maps: bool = False,
        shift_together: bool = False,
        relative: bool = True,
    ) -> None:
        super().__init__(channels, [window, window], [shift, shift], heads)
        self.shift_small_maps, self.shift_together = shift_small_maps, shift_together
        if not relative:
            self.register_parameter("relative_position_bias_table", None)

    def define_relative_position_index(self) -> None:
        """The index follows from the window, so it is no part of the state."""
        super().define_relative_position_index()
        index = self._buffers.pop("relative_position_index")
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes a map (B, H, W, C)."""
        height, width, channels = x.shape[1:]
        side, shift = self.window_size[0], self.shift_size[0]
        below, right = -height % side, -width % side
        if torch.compiler.is_exporting() or below or right:
            x = F.pad(x, (0, 0, 0, right, 0, below))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        # Sides of one window are not shifted: the smaller of the shift and what lies beyond the first window.
        shifts = [shift if self.shift_small_maps else torch.sym_min(shift, side * (n - 1)) for n in (rows, columns)]
        if self.shift_together:
            shifts = [torch.sym_min(*shifts)] * 2
        if shift:
            x = x.roll((-shifts[0], -shifts[1]), (1, 2))
        windows = x.view(-1, rows, side, columns, side, channels).transpose(2, 3).reshape(-1, side**2, channels)
        qkv = self.qkv(windows).view(-1, side**2, 3, self.num_heads, channels // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B windows, heads, w w, C / heads)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        scores = scores.view(-1, rows * columns, *scores.shape[1:]) + self._bias(scores, rows, columns, shifts)
        weights = scores.flatten(0, 1).softmax(-1)
        if shift and weights.is_cpu and not torch.compiler.is_exporting():
            # exp(-100) is a subnormal number; with those, matrix products are many times slower on a CPU.
            weights = F.threshold(weights, _SMALLEST, 0.0)
        mixed = self.proj((weights @ value).transpose(1, 2).reshape(-1, side**2, channels))
        x = mixed.view(-1, rows, columns, side, side, channels).transpose(2, 3)
        x = x.reshape(-1, rows * side, columns * side, channels)
        if shift:
            x = x.roll((shifts[0], shifts[1]), (1, 2))
        return x[:, :height, :width].contiguous()

    def _bias(self, scores: Tensor, rows: int, columns: int, shifts: list[int]) -> Tensor:
        """What is added to the scores: (1, heads, w w, w w), with a shift (rows columns, heads, w w, w w)."""
        relative = self.relative_position_bias_table is not None
        bias = self.get_relative_position_bias() if relative else scores.new_zeros(1, 1, 1, 1)
        if not self.shift_size[0]:
            return bias
        side = self.window_size[0]
        down, across = (
            self._regions(count, shift, bias.device) for count, shift in zip((rows, columns), shifts, strict=True)
        )
        regions = (3 * down.view(rows, 1, side, 1) + across.view(1, columns, 1, side)).reshape(-1, 1, side**2)
        apart = regions.transpose(1, 2) != regions  # (rows columns, w w, w w)
        return bias + apart.unsqueeze(1) * bias.new_tensor(_OTHER_REGION)

    def _regions(self, count: int, shift: int, device: torch.device) -> Tensor:
        """Number of the region, 0 to 2, that each row (column) of `count` shifted windows belongs to."""
        side = self.window_size[0]
        to_end = count * side - torch.arange(count * side, device=device)
        return (to_end <= side).int() + (to_end <= shift).int()


class _Block(swin_transformer.SwinTransformerBlock):
    """x + A(LN(x)), then x + MLP(LN(x)), with window attention or any other operator as A; maps channels last.

    `Swin` puts refinements of what A or the MLP returns into `refine_mixed` and `refine_mlp`.
    """

    channels: int

    def __init__(self, channels: int, heads: int, drop_path: float, attention: nn.Module) -> None:
        super().__init__(
            channels, heads, [], [], stochastic_depth_prob=drop_path, attn_layer=lambda *_, **__: attention
        )
        self.channels = channels
        self.refine_mixed: nn.Module = nn.Identity()
        self.refine_mlp: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Mixes a map (B, H, W, C)."""
        normed = self.norm1(x)
        if isinstance(self.attn, Mixer):  # to it, this view is a map in the memory format channels_last
            mixed = self.attn(normed.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        else:
            mixed = self.attn(normed)
        x = x + self.stochastic_depth(_refined(self.refine_mixed, mixed))
        out: Tensor = x + self.stochastic_depth(_refined(self.refine_mlp, self._mlp(self.norm2(x))))
        return out

    def _mlp(self, x: Tensor) -> Tensor:
        """What `self.mlp` computes: linear, GELU, linear, with dropouts that are off in every published network."""
        widen, _, _, narrow, _ = self.mlp
        return gelu_linear(widen(x), narrow.weight, narrow.bias)


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
                blocks.append(_Block(channels, count, drop_path * (before + index) / last, mixing))
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
        stages = [[block for block in self._blocks(index) if isinstance(block, _Block)] for index in range(4)]
        for block, refine in places(stages, attention, attention_stages, attention_blocks):
            setattr(block, f"refine_{attention_position}", refine(block.channels))
        self.between = nn.ModuleDict()
        if attention_between is not None:
            for number in between_stages:
                self.between[str(number - 1)] = attention_between(self.channels[number - 1])
        if weights is not None:
            load_weights(self, weights)
        if out_indices is not None:
            self.use_maps(out_indices)
        self.freeze(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x` (B, 3, H, W) after each of the four stages, finest first."""
        below, right = -x.shape[2] % 4, -x.shape[3] % 4
        if torch.compiler.is_exporting() or below or right:
            x = F.pad(x, (0, right, 0, below))
        x = self.features[0](x)  # (B, ceil(H / 4), ceil(W / 4), C)
        features = []
        for index, norm in enumerate(self._norms()):
            if index:
                x = self.features[2 * index](x)
            for block in self._blocks(index):
                x = checkpointed(block, x) if self.checkpointing else block(x)
            if str(index) in self.between:
                x = _refined(self.between[str(index)], x)
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

    def _norms(self) -> list[nn.Module]:
        if self.out_norms == "each":
            return [self.norm0, self.norm1, self.norm2, self.norm3]
        return [nn.Identity(), nn.Identity(), nn.Identity(), self.norm]

    def _blocks(self, index: int) -> list[nn.Module]:
        stage = self.features[2 * index + 1]
        assert isinstance(stage, nn.Sequential)
        return list(stage)


def _refined(refine: nn.Module, x: Tensor) -> Tensor:
    """A map (B, H, W, C) refined by an operator of maps (B, C, H, W)."""
    if isinstance(refine, nn.Identity):
        return x
    refined: Tensor = refine(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return refined


def _initialise(module: nn.Module) -> None:
    """The published initialisation of linear layers, for all but the mixers, which bring their own."""
    for child in module.children():
        if isinstance(child, nn.Linear):
            nn.init.trunc_normal_(child.weight, std=0.02)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif not isinstance(child, Mixer):
            _initialise(child)
