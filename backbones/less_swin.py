"""Swin with less attention and the attention residual of LaViT (Zhang et al., CVPR 2024, arXiv 2406.00427)."""

import re
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.attention_residual import AttentionResidual, Pooling
from attention.base import check_at_least
from attention.diagonality import diagonality_loss
from attention.functional.layout import window_mask
from attention.functional.logits import at_least_float32
from attention.lavit import LessAttention, valid_tokens, without_padding
from backbones.base import LeftOut
from backbones.checkpointing import checkpointed
from backbones.conversions.lavit import resized_transform
from backbones.swin import OutNorms, Swin
from backbones.swin_block import Block, WindowAttention
from backbones.weights import load_weights

_PROJECTION = re.compile(r"(features\.\d\.\d+\.attn)\.(?:qkv\.(weight|bias)|relative_position_bias_table)")


class LessSwin(Swin):
    """Swin whose later blocks transform the scores of the block before instead of computing new ones.

        A^l = Psi(Theta(A^{l-1})^T)^T                   in the blocks behind the first `vanilla` of a stage
        A = Q K^T / sqrt(d) + B + gamma W_h DWConv(P A^- P^T)       in the first block of a stage with a residual

    LaViT, arXiv 2406.00427, in Swin: `attention.LessAttention` and `AttentionResidual`, A^- being the last scores of
    the stage before and B Swin's bias by offset. Features, sizes and everything else are those of `Swin`; where all
    blocks are vanilla and no stage has a residual, so is every number.

    The paper does not say how windows and less attention go together (assumption A56). A transform belongs to the cells
    of one window, and shifted windows of the border hold cells from both ends of the map. So only windows that are not
    shifted hand scores on: vanilla blocks are shifted in turn as in Swin, blocks with less attention never, and the
    first of these takes the scores of the last vanilla block that is not shifted. Scores contain the bias by offset.
    Cells that fill up the last windows count in vanilla blocks, as in Swin, and neither as keys nor in transforms in
    the others.

    A window of the next stage covers 2 w x 2 w cells, four windows of the stage before. The residual pools the scores
    of their cells over 2 x 2 queries and 2 x 2 keys; those of pairs in different windows do not exist and are zero.
    These 16 w^4 numbers a head and window are held at once: in Swin-T, for 800 x 1280 pixels, 159 MB behind stage 1 and
    44 MB behind stage 3.

    Published weights of Swin load: less attention takes the value projection, its transforms start as the identity.

    Args:
        embed_channels: Number of channels C of the first stage, a multiple of 32.
        depths: Number of blocks of each stage.
        vanilla: Number of blocks with Swin's own attention at the beginning of each stage, at least 1; as many as the
            stage has blocks leave none with less attention, fewer than 2 none with shifted windows.
        residual_stages: Stages whose first scores have those of the stage before added, pooled; numbers from 2 to 4.
        window: Side w of a window in cells.
        rank: Rank of the transforms' deviation from the identity, or none for full matrices (the paper).
        pooling: How scores are pooled from stage to stage: `blocks`, `separable` or `literal`.
        layer_scale: Start of the factor of the pooled scores; 0 starts without them.
        diagonality: Weight of the diagonality loss that `auxiliary_loss` returns, 0 for none; 0.01 to 0.1 is sensible.
        diagonality_parts: Weights of its two parts: symmetry, and a diagonal that is larger than the rest.
        diagonality_margin: How much larger, in units of the scores.
        out_norms: `each`: layer normalisation of every feature map; `last`: of the last one only, for classification.
        out_indices: Numbers of the maps to return, from 0; none returns all four. The detectors and segmentors of this
            package choose what they read by themselves, among these.
        drop_path: Probability of skipping the last block's branches in training; it rises linearly from 0 at the first
            block.
        shift_small_maps: Whether to shift windows along sides that one window covers.
        shift_together: Whether to shift windows along no side where one window covers a side.
        frozen_stages: Stages without training: 0 none, 1 the stem, 2 the stem and stage 1 (stride 4), up to 5,
            everything.
        checkpointing: Whether blocks compute their intermediate results again in the backward pass to save memory.
        weights: `imagenet` for torchvision's weights of Swin, or the path of a file in any layout that `Swin` reads;
            none leaves the random initialisation.
    """

    def __init__(
        self,
        embed_channels: int = 96,
        depths: tuple[int, int, int, int] = (2, 2, 6, 2),
        vanilla: tuple[int, int, int, int] = (2, 2, 2, 1),
        residual_stages: tuple[int, ...] = (4,),
        window: int = 7,
        rank: int | None = None,
        pooling: Pooling = "blocks",
        layer_scale: float = 0.1,
        diagonality: float = 0.0,
        diagonality_parts: tuple[float, float] = (1.0, 1.0),
        diagonality_margin: float = 0.0,
        out_norms: OutNorms = "each",
        out_indices: tuple[int, ...] | None = None,
        drop_path: float = 0.2,
        shift_small_maps: bool = False,
        shift_together: bool = False,
        frozen_stages: int = 0,
        checkpointing: bool = False,
        weights: str | None = None,
    ) -> None:
        check_at_least(1, vanilla=min(vanilla))
        if not set(residual_stages) <= {2, 3, 4}:
            raise ValueError(f"residual_stages={tuple(residual_stages)} need a stage before; choose from 2, 3, 4")
        if min(diagonality, *diagonality_parts) < 0:
            raise ValueError(
                f"diagonality={diagonality} with diagonality_parts={tuple(diagonality_parts)} would reward what it is "
                "against; give 0 or positive numbers"
            )
        super().__init__(
            embed_channels,
            depths,
            window,
            out_norms=out_norms,
            drop_path=drop_path,
            shift_small_maps=shift_small_maps,
            shift_together=shift_together,
            checkpointing=checkpointing,
        )
        self.vanilla, self.residual_stages, self.rank = tuple(vanilla), tuple(residual_stages), rank
        self.pooling: Pooling = pooling
        self.diagonality = diagonality
        self.diagonality_loss = partial(diagonality_loss, margin=diagonality_margin, parts=diagonality_parts)
        for index, (own, channels, heads) in enumerate(zip(vanilla, self.channels, self.heads, strict=True)):
            for block in self._blocks(index)[own:]:
                block.attn = LessAttention(channels, heads, window, rank)
        for number in residual_stages:
            before, heads = self.heads[number - 2 : number]
            residual = AttentionResidual(before, heads, 2 * window, pooling, layer_scale, bias=True)
            self.add_module(f"attn_down{number}", residual)
        if weights is not None:
            load_weights(self, weights)
        if out_indices is not None:
            self.use_maps(out_indices)
        self.freeze(frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x` (B, 3, H, W) after each of the four stages, finest first."""
        x = self._patches(x)
        features, losses = [], []
        scores: Tensor | None = None
        for index, norm in enumerate(self._norms()):
            handed_on = None
            if index:
                if isinstance(self.features[2 * index], LeftOut):
                    break
                residual = self._residual(index + 1)
                if residual is not None:
                    handed_on = residual(_in_windows_of_four(cast(Tensor, scores), x, self.window))
                x = self.features[2 * index](x)
            for block in self._blocks(index):
                less = isinstance(block.attn, LessAttention)
                given = (x, scores if less else handed_on)
                through = partial(_through, cast(Block, block))
                x, found = checkpointed(block, *given, function=through) if self.checkpointing else through(*given)
                handed_on = None  # to the first block alone
                scores = scores if found is None else found
                if less and self.diagonality and self.training:
                    valid = window_mask(x.permute(0, 3, 1, 2), self.window)
                    losses.append(self.diagonality_loss(cast(Tensor, scores), valid=valid))
            features.append(norm(x).permute(0, 3, 1, 2))
        self._auxiliary = self.diagonality * torch.stack(losses).sum() if losses else None
        return features

    def stages(self) -> list[list[nn.Module]]:
        """The stem; then of each stage its residual, the patch merging, the blocks and the normalisation of its map."""
        stem, *stages = super().stages()
        residuals = [self._residual(number) for number in range(1, 5)]
        return [stem, *([r, *stage] if r is not None else stage for r, stage in zip(residuals, stages, strict=True))]

    @property
    def label(self) -> str:
        """Name of the network."""
        return f"Less-{super().label}"

    def network_options(self) -> dict[str, object]:
        """The options that say what is computed."""
        names = ("vanilla", "residual_stages", "rank", "pooling")
        return {**super().network_options(), **{name: getattr(self, name) for name in names}}

    def inserted_prefixes(self) -> tuple[str, ...]:
        """Beginnings of the names that Swin's weights lack: transforms, residuals, normalisations of feature maps."""
        less = [name for name, module in self.named_modules() if isinstance(module, LessAttention)]
        transforms = (f"{name}.{transform}." for name in less for transform in ("theta", "psi"))
        return (*super().inserted_prefixes(), *transforms, "attn_down2.", "attn_down3.", "attn_down4.")

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Entries in any layout of Swin's under our names; less attention takes the projection of values."""
        converted, parts = {}, dict(self.named_modules())
        for name, value in super().convert(state).items():
            found = _PROJECTION.fullmatch(name)
            if found is None or not isinstance(parts.get(found[1]), LessAttention):
                converted[name] = value
            elif found[2]:
                converted[f"{found[1]}.v.{found[2]}"] = value.chunk(3)[2].clone()
        return converted

    def resize(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Tables of relative positions and transforms of scores for another window."""
        if ".theta." in name or ".psi." in name:
            return resized_transform(name, value, shape)
        return super().resize(name, value, shape)

    def _residual(self, number: int) -> AttentionResidual | None:
        """What adds the scores of the stage before to those of a stage, if it is there."""
        residual = getattr(self, f"attn_down{number}", None)
        return residual if isinstance(residual, AttentionResidual) else None


def _through(block: Block, x: Tensor, scores: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A block's map (B, H, W, C), and the scores that it hands on.

    Scores of padding are zero in what is handed on, as in `attention.lavit`; shifted windows hand on none.
    """
    attention, normed = block.attn, block.norm1(x)
    as_map = normed.permute(0, 3, 1, 2)
    if isinstance(attention, LessAttention):
        mixed, scores = attention(as_map, scores)
        return block.added(x, mixed.permute(0, 2, 3, 1)), scores
    assert isinstance(attention, WindowAttention)
    mixed, scores = attention.with_scores(normed, scores)
    if attention.shift_size[0]:
        return block.added(x, mixed), None
    return block.added(x, mixed), without_padding(
        at_least_float32(scores), valid_tokens(as_map, attention.window_size[0])
    )


def _in_windows_of_four(scores: Tensor, x: Tensor, window: int) -> Tensor:
    """Scores (B R S, heads, w w, w w) of the windows of a map (B, H, W, C) as those of windows of twice the side.

    Rows and columns of windows that are missing at the end count as zero, as do pairs of cells in different windows.

    Returns:
        Scores (B ceil(R / 2) ceil(S / 2), heads, 4 w w, 4 w w).
    """
    rows, columns = (x.shape[1] + window - 1) // window, (x.shape[2] + window - 1) // window
    by_place = scores.reshape(x.shape[0], rows, columns, scores.shape[1], *[window] * 4)
    below, right = (rows + 1) // 2 * 2 - rows, (columns + 1) // 2 * 2 - columns
    by_place = F.pad(by_place, (0,) * 10 + (0, right, 0, below)).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
    same = torch.eye(2, dtype=scores.dtype, device=scores.device)
    # Query row ay and column tx, key row cv and column du, each the window among the two and the cell in it.
    joined = torch.einsum("brasthyxvu,ac,td->brshaytxcvdu", by_place, same, same)
    return joined.flatten(8).flatten(4, 7).flatten(0, 2)
