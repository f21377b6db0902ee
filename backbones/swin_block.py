"""The parts of Swin's blocks (Liu et al., ICCV 2021, arXiv 2103.14030): window attention, and the block around it.

They are torchvision's, under its parameter names; window attention computes the same in fewer passes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import swin_transformer

from attention.base import Mixer
from backbones.gelu_linear import gelu_linear

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
        return self.with_scores(x)[0]

    def with_scores(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mixes a map (B, H, W, C) and returns the scores before the softmax beside it.

        Both scores have the windows in the order batch, row, column; those that fill up the last ones are among them.

        Args:
            x: The map.
            residual: Scores (B windows, heads, w w, w w) that are added to this layer's.
        """
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
        scores = scores.flatten(0, 1) if residual is None else scores.flatten(0, 1) + residual
        weights = scores.softmax(-1).to(value.dtype)
        if shift and weights.is_cpu and not torch.compiler.is_exporting():
            # exp(-100) is a subnormal number; with those, matrix products are many times slower on a CPU.
            weights = F.threshold(weights, _SMALLEST, 0.0)
        mixed = self.proj((weights @ value).transpose(1, 2).reshape(-1, side**2, channels))
        x = mixed.view(-1, rows, columns, side, side, channels).transpose(2, 3)
        x = x.reshape(-1, rows * side, columns * side, channels)
        if shift:
            x = x.roll((shifts[0], shifts[1]), (1, 2))
        return x[:, :height, :width].contiguous(), scores

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


class Block(swin_transformer.SwinTransformerBlock):
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
        return self.added(x, mixed)

    def added(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The block's map (B, H, W, C) from its input and what attention has made of it."""
        x = x + self.stochastic_depth(refined_last(self.refine_mixed, mixed))
        out: Tensor = x + self.stochastic_depth(refined_last(self.refine_mlp, self._mlp(self.norm2(x))))
        return out

    def _mlp(self, x: Tensor) -> Tensor:
        """What `self.mlp` computes: linear, GELU, linear, with dropouts that are off in every published network."""
        widen, _, _, narrow, _ = self.mlp
        return gelu_linear(widen(x), narrow.weight, narrow.bias)


def refined_last(refine: nn.Module, x: Tensor) -> Tensor:
    """A map (B, H, W, C) refined by an operator of maps (B, C, H, W)."""
    if isinstance(refine, nn.Identity):
        return x
    refined: Tensor = refine(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return refined
