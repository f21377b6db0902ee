"""Outlook attention of VOLO (Yuan et al., TPAMI 2022, arXiv 2106.13112)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Mixer, check_at_least, check_divides, check_odd
from attention.functional.layout import cell_means, channels_last, in_format_of
from attention.functional.neighbourhood import neighbourhood_rows, neighbourhood_sum


class OutlookAttention(Mixer):
    """Weights between all cells of a k x k window come from its centre alone, and overlapping windows are added.

        v = W_v x                                                       (B, heads, D, H, W)
        A_i = softmax_b(D^-1/2 (W_a mean_{s x s}(x)_i + b_a))           (heads, k k, k k) for every window i
        z_p = sum_{i, a: s i + a = p} sum_b A_i[a, b] v_{s i + b}       (B, C_out, H, W)
        y = W_o z + b_o                                                 (B, C_out, H', W')

    arXiv 2106.13112, section 3.1, with windows at every s-th position as in its networks (and timm): the k k cells a, b
    lie around s i, every row of A_i is a softmax, and cells outside the map stay in it with value zero. With `stride` a
    mean over stride x stride cells of z follows, which no published network has (assumption A49).

    Here the weights of all windows that cover a position are added up first: they are those of its (2 k - 1)^2
    neighbours. Thus nothing of size C k^2 H W is stored, and for s = 1 the sum has k^4 / (2 k - 1)^2 times fewer
    products. Softmax and sums of weights are in float32 under autocast.

    Parameters: C_in C_out + (C_in + 1) heads k^4 + C_out^2 + C_out, with `bias` C_out more. Cost: H W (C_in C_out +
    (2 k - 1)^2 C_out) + ceil(H / s) ceil(W / s) C_in heads k^4 + H' W' C_out^2 multiply-accumulates; linear in H W.

    Place: instead of a spatial convolution; in VOLO in the blocks of the stage at stride 8.

    Args:
        in_channels: Number of channels C_in of the input map, at least 1.
        out_channels: Number of channels C_out of the output map, a multiple of `heads`.
        stride: Subsampling factor of the output map in both directions, at least 1.
        heads: Number of heads, each with D = C_out / heads channels; VOLO has 32 channels a head.
        kernel_size: Side k of a window in cells, odd. The paper takes 3.
        grid_stride: Distance s of the windows in cells, from 1 to k. The paper's networks take 2.
        bias: Whether the projection to values has a bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        heads: int = 8,
        kernel_size: int = 3,
        grid_stride: int = 2,
        bias: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        check_at_least(1, heads=heads, grid_stride=grid_stride)
        check_odd(kernel_size=kernel_size)
        check_divides("out_channels", out_channels, "heads", heads)
        if grid_stride > kernel_size:
            raise ValueError(
                f"grid_stride={grid_stride} leaves positions in no window; give at most kernel_size={kernel_size}"
            )
        self.heads, self.kernel_size, self.grid_stride = heads, kernel_size, grid_stride
        self.scale = (out_channels // heads) ** -0.5
        self.v = nn.Linear(in_channels, out_channels, bias=bias)
        self.attn = nn.Linear(in_channels, heads * kernel_size**4)
        self.proj = nn.Linear(out_channels, out_channels)
        for layer in (self.v, self.attn, self.proj):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes `x` (B, C_in, H, W) into (B, C_out, ceil(H / stride), ceil(W / stride))."""
        last = channels_last(x).permute(0, 2, 3, 1)
        values = self.v(last).unflatten(3, (self.heads, -1))  # (B, H, W, heads, D)
        mixed = neighbourhood_sum(self._weights(x), values).flatten(3)
        mixed = cell_means(mixed.permute(0, 3, 1, 2), self.stride)
        return in_format_of(x, self.proj(mixed.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))

    def _weights(self, x: Tensor) -> Tensor:
        """Weight of every neighbour for every position, (B, H, W, heads, (2 k - 1)^2)."""
        k, reach = self.kernel_size, 2 * self.kernel_size - 1
        weight, bias = self.attn.weight[:, :, None, None], self.attn.bias
        logits = F.conv2d(cell_means(x, self.grid_stride), weight * self.scale, bias * self.scale)
        # A softmax over cells is fast with positions behind them, and so is all that moves its weights.
        logits = logits.contiguous().unflatten(1, (self.heads, k * k, k * k))  # (B, heads, a, b, h, w)
        windows = torch.softmax(logits, 3, dtype=torch.promote_types(logits.dtype, torch.float32))
        neighbours = _around_their_cells(windows.unflatten(3, (k, k)), k)  # (B, heads, 2 k - 1, 2 k - 1, k k, h, w)
        height, width = x.shape[2:]
        covering = F.fold(
            neighbours.flatten(5).flatten(1, 4), (height, width), k, padding=k // 2, stride=self.grid_stride
        )
        weights = covering.unflatten(1, (self.heads, reach**2)).permute(0, 3, 4, 1, 2)
        if self.recording:
            rows, columns = (neighbourhood_rows(size, reach, 1, 1, x.device) for size in (height, width))
            self.record("key", weights.permute(0, 3, 1, 2, 4).unflatten(-1, (reach, reach)), rows, columns)
        return weights


def _around_their_cells(windows: Tensor, k: int) -> Tensor:
    """Weights (B, heads, k k, k, k, h, w) within a window around the cell that they are for.

    Returns:
        Weights (B, heads, 2 k - 1, 2 k - 1, k k, h, w).
    """
    return torch.stack(
        [
            F.pad(of_cell, (0, 0, 0, 0, k - 1 - index % k, index % k, k - 1 - index // k, index // k), value=0.0)
            for index, of_cell in enumerate(windows.unbind(2))
        ],
        4,
    )
