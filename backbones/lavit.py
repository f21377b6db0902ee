"""LaViT, a vision transformer with less attention (Zhang et al., CVPR 2024, arXiv 2406.00427): a reconstruction.

Neither code nor a table of stages was published. The mechanism is the paper's; the numbers of channels, heads and
blocks, and everything about images of other sizes, are ours.
"""

from collections import OrderedDict
from functools import partial
from typing import cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from attention.attention_residual import AttentionResidual, Pooling
from attention.base import check_at_least, check_choice, check_divides
from attention.diagonality import diagonality_loss
from attention.functional.layout import window_mask
from attention.lavit import LessAttention, VanillaAttention
from backbones.base import Backbone, LeftOut
from backbones.checkpointing import checkpointed
from backbones.conversions.lavit import resized_positions, resized_transform
from backbones.swin import OutNorms
from backbones.weights import load_weights

_PATCHES = (4, 2, 2, 2)


class _Embedding(nn.Module):
    """Non-overlapping convolution, normalisation and position embedding; the result is channels last."""

    position_tables = ("pos_embed",)

    def __init__(self, in_channels: int, channels: int, patch: int, side: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(in_channels, channels, patch, patch)
        self.norm = nn.LayerNorm(channels)
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, channels, side, side), std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, ceil(H / patch), ceil(W / patch), C')."""
        x = self.norm(self.proj(_filled_up(x, self.patch)).permute(0, 2, 3, 1))
        # The embedding itself at its own size.
        positions = F.interpolate(self.pos_embed, x.shape[1:3], mode="bicubic", align_corners=False)
        return x + positions.permute(0, 2, 3, 1)


class _ReducedAttention(nn.Module):
    """Attention of every cell to the r x r means that a strided convolution makes of the map; maps channels last."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.q, self.k, self.v, self.proj = (nn.Linear(channels, channels) for _ in range(4))
        self.sr = nn.Conv2d(channels, channels, reduction, reduction)
        self.sr_norm = nn.LayerNorm(channels)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes a map (B, H, W, C)."""
        reduced = self.sr(_filled_up(x.permute(0, 3, 1, 2), self.reduction))
        tokens = self.sr_norm(reduced.flatten(2).transpose(1, 2))
        query, key, value = (
            layer(part).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, part in ((self.q, x.flatten(1, 2)), (self.k, tokens), (self.v, tokens))
        )
        read = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        out: Tensor = self.proj(read).view_as(x)
        return out


class _Block(nn.Module):
    """x + A(LN(x)), then x + MLP(LN(x)), and the scores of A where it has some; maps channels last."""

    def __init__(self, channels: int, mlp_ratio: int, drop_path: float, attention: nn.Module) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = attention
        self.norm2 = nn.LayerNorm(channels)
        layers = {
            "fc1": nn.Linear(channels, mlp_ratio * channels),
            "act": nn.GELU(),
            "fc2": nn.Linear(mlp_ratio * channels, channels),
        }
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.mlp.apply(_initialise)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: Tensor, scores: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Mixes a map (B, H, W, C); `scores` are those of the block before, or the residual of the stage before."""
        normed = self.norm1(x)
        if isinstance(self.attn, _ReducedAttention):
            mixed = self.attn(normed)
        else:
            mixed, scores = self.attn(normed.permute(0, 3, 1, 2), scores)
            mixed = mixed.permute(0, 2, 3, 1)
        x = x + self.drop_path(mixed)
        return x + self.drop_path(self.mlp(self.norm2(x))), scores


class LaViT(Backbone):
    """LaViT: its last two stages transform the attention scores of the block before instead of computing new ones.

    Features are the outputs of the four stages at strides 4, 8, 16 and 32, in the memory format channels_last.

    A reconstruction: the paper's mechanism (`attention.VanillaAttention`, `LessAttention`, `AttentionResidual`) in
    stages of our own choice, those of PVT (arXiv 2102.12122), because none are published (assumption A11). Parameters
    and operations of the published LaViT-T, -S and -B (10.9, 22.4 and 39.6 M) are not reproduced, so its accuracies are
    not those of this network either. At strides 4 and 8, where N x N scores are out of reach, vanilla attention reads
    keys and values from the map reduced by a strided convolution, as in PVT; these scores are not square and are not
    handed on. Stages 3 and 4 have vanilla attention in the first `vanilla` blocks and less attention in the others. The
    last scores of stage 3, pooled, are added to the first ones of stage 4. There is no class token.

    Images of every size are accepted (assumption A12). Transforms of scores are tied to a number of tokens, so that
    attention in stages 3 and 4 takes place within windows of w x w and w / 2 x w / 2 cells, which cover the same
    pixels: for 224 x 224 pixels and w = 14 the whole map, hence the network of the paper, and weights trained there
    keep their meaning for larger images. Cells that fill up a window count neither as keys nor in transforms; cells
    that fill up the patches of a strided convolution are zero. Position embeddings are interpolated bicubically.
    Weights for another w load with transforms and embeddings interpolated.

    The paper adds a loss to training that keeps scores symmetric and their diagonals large. Where `diagonality` is
    positive, every forward pass in training mode computes it, and `auxiliary_loss` hands it out to whoever trains:

        scores = network(images)
        loss = criterion(scores, labels) + backbone.auxiliary_loss()

    Parameters without classifier, T, S and B: 11,246,681, 19,955,957 and 33,212,885 with four output normalisations.
    In training, biases, normalisations, `pos_embed` and `gamma` are best without weight decay; transforms are stored as
    deviations from the identity and may decay.

    Args:
        depths: Number of blocks of each stage.
        vanilla: Number of blocks with vanilla attention at the beginning of each of `less_stages`, at least 1; as many
            as the stage has blocks leave none with less attention.
        embed_channels: Number of channels of each stage, multiples of its `heads`.
        heads: Number of heads of each stage.
        mlp_ratios: Hidden channels of the MLPs per channel, by stage.
        reductions: Sides in cells of what is one key in stage 1 and in stage 2.
        window: Side w of a window of stage 3 in cells of 16 pixels, even; stage 4 has half of it, stages 2 and 1, where
            they have windows, 2 w and 4 w.
        rank: Rank of the transforms' deviation from the identity, or none for full matrices (the paper).
        pooling: How scores are pooled from stage 3 to stage 4: `blocks`, `separable` or `literal`.
        layer_scale: Start of the factor of the pooled scores; 0 starts without them.
        diagonality: Weight of the diagonality loss that `auxiliary_loss` returns, 0 for none. The paper's is not known
            (assumption A13); 0.01 to 0.1 is sensible.
        out_norms: `each`: layer normalisation of every feature map; `last`: of the last one only, for classification.
        out_indices: Numbers of the maps to return, from 0; none returns all four. The detectors and segmentors of this
            package choose what they read by themselves, among these.
        drop_path: Probability of skipping the last block's branches in training; it rises linearly from 0 at the first.
        image_size: Side of the images in pixels whose grids of cells the position embeddings have.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1 (stride 4), up to 5,
            everything.
        checkpointing: Whether blocks compute their intermediate results again in the backward pass to save memory.
        weights: Path of a .pth, .pt or .safetensors file; none leaves the random initialisation.
        less_stages: Stages with windows, whose later blocks have less attention, ascending numbers from 1 to 4; the
            others have reduced vanilla attention.
        residual_stages: Stages whose first scores have those of the stage before added, pooled; both have windows.
        diagonality_parts: Weights of its two parts: symmetry, and a diagonal that is larger than the rest.
        diagonality_margin: How much larger, in units of the scores.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int] = (2, 2, 2, 2),
        vanilla: tuple[int, ...] = (1, 1),
        embed_channels: tuple[int, int, int, int] = (64, 128, 320, 512),
        heads: tuple[int, int, int, int] = (1, 2, 5, 8),
        mlp_ratios: tuple[int, int, int, int] = (8, 8, 4, 4),
        reductions: tuple[int, int] = (8, 4),
        window: int = 14,
        rank: int | None = None,
        pooling: Pooling = "blocks",
        layer_scale: float = 0.1,
        diagonality: float = 0.0,
        out_norms: OutNorms = "each",
        out_indices: tuple[int, ...] | None = None,
        drop_path: float = 0.1,
        image_size: int = 224,
        frozen_stages: int = 0,
        checkpointing: bool = False,
        weights: str | None = None,
        less_stages: tuple[int, ...] = (3, 4),
        residual_stages: tuple[int, ...] = (4,),
        diagonality_parts: tuple[float, float] = (1.0, 1.0),
        diagonality_margin: float = 0.0,
    ) -> None:
        super().__init__()
        _check_stages(vanilla, less_stages, residual_stages)
        check_at_least(1, depths=min(depths), vanilla=min(vanilla), reductions=min(reductions), heads=min(heads))
        check_at_least(2, window=window)
        check_divides("window", window, "the side of the next stage's cells", 2)
        check_at_least(1, image_size=image_size)
        check_choice("out_norms", out_norms, get_args(OutNorms))
        for channels, number in zip(embed_channels, heads, strict=True):
            check_divides("embed_channels", channels, "heads", number)
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path={drop_path} is no probability below 1; give one such as 0.1")
        if min(diagonality, *diagonality_parts) < 0:
            raise ValueError(
                f"diagonality={diagonality} with diagonality_parts={tuple(diagonality_parts)} would reward what it is "
                "against; give 0 or positive numbers"
            )
        self.channels = tuple(embed_channels)
        self.strides = (4, 8, 16, 32)
        self.window, self.diagonality, self.checkpointing = window, diagonality, checkpointing
        self.diagonality_loss = partial(diagonality_loss, margin=diagonality_margin, parts=diagonality_parts)

        first_vanilla = dict(zip(less_stages, vanilla, strict=True))
        windows = {number: window * 2 ** max(0, 3 - number) // 2 ** max(0, number - 3) for number in less_stages}
        self.patch_embeds = nn.ModuleList()
        self.blocks = nn.ModuleList()
        before, index = 3, 0
        for stage, (channels, depth, ratio) in enumerate(zip(embed_channels, depths, mlp_ratios, strict=True)):
            side = -(-image_size // self.strides[stage])
            self.patch_embeds.append(_Embedding(before, channels, _PATCHES[stage], side))
            blocks = []
            for number in range(depth):
                rate = drop_path * index / max(1, sum(depths) - 1)
                attention: nn.Module
                if stage + 1 not in windows:
                    attention = _ReducedAttention(channels, heads[stage], (*reductions, 1, 1)[stage])
                elif number < first_vanilla[stage + 1]:
                    attention = VanillaAttention(channels, heads[stage], windows[stage + 1])
                else:
                    attention = LessAttention(channels, heads[stage], windows[stage + 1], rank)
                blocks.append(_Block(channels, ratio, rate, attention))
                index += 1
            self.blocks.append(nn.ModuleList(blocks))
            before = channels
        for number in residual_stages:
            residual = AttentionResidual(
                heads[number - 2], heads[number - 1], windows[number - 1], pooling, layer_scale, bias=True
            )
            self.add_module(_residual_name(number), residual)
        if out_norms == "each":
            self.norm0, self.norm1, self.norm2, self.norm3 = map(nn.LayerNorm, self.channels)
            self.classifier_prefixes = (*self.classifier_prefixes, "norm.")
        else:
            self.norm = nn.LayerNorm(self.channels[-1])
            self.classifier_prefixes = (*self.classifier_prefixes, "norm0.", "norm1.", "norm2.", "norm3.")
        self.out_norms: OutNorms = out_norms
        if weights is not None:
            load_weights(self, weights)
        if out_indices is not None:
            self.use_maps(out_indices)
        self.freeze(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x` (B, 3, H, W) after each of the four stages, finest first."""
        features, losses = [], []
        scores: Tensor | None = None
        for stage, (embed, norm) in enumerate(zip(self.patch_embeds, self._norms(), strict=True)):
            if isinstance(embed, LeftOut):
                break
            x = embed(x)  # (B, H', W', C)
            residual = getattr(self, _residual_name(stage + 1), None)
            handed_on = residual(scores) if residual is not None and scores is not None else None
            for block in self._blocks(stage):
                less = isinstance(block.attn, LessAttention)
                given = (block, x, scores if less else handed_on)
                x, scores = checkpointed(*given) if self.checkpointing else block(*given[1:])
                handed_on = None  # to the first block alone
                if less and self.diagonality and self.training:
                    valid = window_mask(x.permute(0, 3, 1, 2), cast(LessAttention, block.attn).window)
                    losses.append(self.diagonality_loss(cast(Tensor, scores), valid=valid))
            features.append(norm(x).permute(0, 3, 1, 2))
            x = x.permute(0, 3, 1, 2)
        self._auxiliary = self.diagonality * torch.stack(losses).sum() if losses else None
        return features

    def stages(self) -> list[list[nn.Module]]:
        """The stem; then of each stage the embedding, the blocks and the normalisation of its map."""
        stages: list[list[nn.Module]] = [[self.patch_embeds[0]]]
        for stage, norm in enumerate(self._norms()):
            before: list[nn.Module] = [self.patch_embeds[stage]] if stage else []
            residual = getattr(self, _residual_name(stage + 1), None)
            if residual is not None:
                before.append(residual)
            norms = [] if isinstance(norm, nn.Identity) else [norm]
            stages.append([*before, *self._blocks(stage), *norms])
        return stages

    def unused_parts(self, maps: tuple[int, ...]) -> list[nn.Module]:
        """What stands behind the last map, and the normalisations of the others."""
        others = [norm for index, norm in enumerate(self._norms()) if index < maps[-1] and index not in maps]
        return [*super().unused_parts(maps), *(norm for norm in others if isinstance(norm, nn.LayerNorm))]

    def inserted_prefixes(self) -> tuple[str, ...]:
        """Beginnings of the names that classification networks lack: normalisations of feature maps."""
        return ("norm0.", "norm1.", "norm2.", "norm3.") if self.out_norms == "each" else ()

    def resize(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Position embeddings for images of another size, and transforms of scores for windows of another side."""
        if name.endswith(".pos_embed"):
            return resized_positions(value, shape)
        return resized_transform(name, value, shape) if ".theta." in name or ".psi." in name else None

    def _blocks(self, stage: int) -> list[_Block]:
        return cast("list[_Block]", list(cast(nn.ModuleList, self.blocks[stage])))

    def _norms(self) -> tuple[nn.Module, ...]:
        if self.out_norms == "each":
            return self.norm0, self.norm1, self.norm2, self.norm3
        return nn.Identity(), nn.Identity(), nn.Identity(), self.norm


def _residual_name(stage: int) -> str:
    """Name of the attention residual into a stage; that into the last was the only one once."""
    return "attn_down" if stage == 4 else f"attn_down{stage}"


def _check_stages(vanilla: tuple[int, ...], less_stages: tuple[int, ...], residual_stages: tuple[int, ...]) -> None:
    """Raises `ValueError` where the stages of `LaViT` do not fit together."""
    if list(less_stages) != sorted({*less_stages} & {1, 2, 3, 4}) or not less_stages:
        raise ValueError(f"less_stages={tuple(less_stages)} is no ascending choice of 1 to 4; give one such as (3, 4)")
    if len(vanilla) != len(less_stages):
        raise ValueError(
            f"vanilla={tuple(vanilla)} has {len(vanilla)} numbers for less_stages={tuple(less_stages)}; give one each"
        )
    possible = [number for number in less_stages if number - 1 in less_stages]
    if not set(residual_stages) <= set(possible):
        raise ValueError(
            f"residual_stages={tuple(residual_stages)} needs windows in each stage and the one before; choose among "
            f"{possible}, or change less_stages"
        )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _filled_up(x: Tensor, multiple: int) -> Tensor:
    """A map (B, C, H, W) with zeros below and right up to multiples of a number of cells."""
    # Not the shorter -size % multiple, which compilers cannot handle in the scale of the interpolation behind.
    below, right = ((size + multiple - 1) // multiple * multiple - size for size in x.shape[2:])
    return F.pad(x, (0, right, 0, below)) if torch.compiler.is_exporting() or below or right else x
