"""Decoupled dynamic filter, DDF (Zhou et al., CVPR 2021, arXiv 2104.14107)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from attention.base import Mixer, bottleneck_channels, check_choice, check_odd
from attention.functional.layout import channels_last, every_nth, in_format_of
from attention.functional.logits import at_least_float32, autocast_off
from attention.functional.neighbourhood import modulated_sum, neighbourhood_rows, neighbourhood_sum
from attention.pooling import global_mean

Combination = Literal["product", "sum"]
_EPSILON = 1e-5  # of filter normalisation


class DynamicFilter(Mixer):
    """Every position sums its k x k neighbours with a filter of its own times one of the channel, both predicted.

        P_i = FN(W_p x_i + b_p)                                     k k weights of position i, at every stride-th one
        G = FN(W_2 relu(W_1 mean_{H,W} x + b_1) + b_2)              k k weights of every channel
        y_ci = (W_o z_i)_c,  z_ci = sum_t P_i,t G_c,t v_c,i+t       v = W_v x, zero outside the map
        FN(f)_t = gain_t (f_t - mean(f)) / std(f) + shift_t         over the k k cells of a filter

    arXiv 2104.14107, equations 3 to 6; gain and shift are learned, those of positions one a cell, those of channels one
    a cell and channel (assumption A53). `combination: sum` adds the two filters. The paper's operator keeps the
    channels and has neither W_v nor W_o; `projections: false` is this.

    Parameters: k^2 (C_in + 3) + m (C_in + 1) + C_out k^2 (m + 3) with m = floor(C_in / reduction), with projections
    C_in C_out + C_out^2 + 2 C_out more. Cost: H' W' (C_in k^2 + 2 C_out k^2) multiply-accumulates, with projections
    H W C_in C_out + H' W' C_out^2 more.

    Place: instead of a spatial convolution.

    Args:
        in_channels: Number of channels C_in of the input map, at least `reduction`.
        out_channels: Number of channels C_out of the output map.
        stride: Subsampling factor of the output map in both directions, at least 1.
        kernel_size: Side k of the filters in cells, odd. The paper takes 3.
        reduction: Divisor of C_in that gives the hidden width m of the channels' filters; the paper takes 0.2 of C_in.
        combination: How the filters of position and channel are combined: `product` or `sum`.
        projections: Whether the sum has the projections W_v and W_o around it; without, C_in and C_out must agree.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        kernel_size: int = 3,
        reduction: int = 5,
        combination: Combination = "product",
        projections: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        check_odd(kernel_size=kernel_size)
        check_choice("combination", combination, get_args(Combination))
        if not projections and in_channels != out_channels:
            raise ValueError(
                f"projections=False needs in_channels={in_channels} and out_channels={out_channels} to agree; set it"
                " to True"
            )
        self.kernel_size = kernel_size
        self.combination: Combination = combination
        hidden, cells = bottleneck_channels(in_channels, reduction), kernel_size**2
        self.value = nn.Conv2d(in_channels, out_channels, 1) if projections else nn.Identity()
        self.out = nn.Conv2d(out_channels, out_channels, 1) if projections else nn.Identity()
        self.spatial = nn.Conv2d(in_channels, cells, 1)
        self.channel = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, out_channels * cells, 1)
        )
        self.spatial_gain = nn.Parameter(torch.full((cells,), 1 / kernel_size))
        self.spatial_shift = nn.Parameter(torch.zeros(cells))
        deviation = 1.0 if combination == "product" else 1 / kernel_size  # so that the sum keeps the variance of v
        self.channel_gain = nn.Parameter(torch.full((out_channels * cells,), deviation))
        self.channel_shift = nn.Parameter(torch.zeros(out_channels * cells))

    def forward(self, x: Tensor) -> Tensor:
        """Mixes `x` (B, C_in, H, W) into (B, C_out, ceil(H / stride), ceil(W / stride))."""
        given = channels_last(x)
        value = self.value(given)
        position, channel = self._filters(given)
        if self.recording:
            self._record(position, x)
        # Samples become heads of one map, so that each has its own kernels.
        weights = position.permute(1, 2, 0, 3).unsqueeze(0)  # (1, H', W', B, k k)
        values = value.permute(2, 3, 0, 1).unsqueeze(0)  # (1, H, W, B, C_out)
        if self.combination == "product":
            mixed = modulated_sum(weights, values, channel, self.stride)
        else:
            of_position = neighbourhood_sum(weights, values, self.stride)
            mixed = of_position + modulated_sum(torch.ones_like(weights), values, channel, self.stride)
        return in_format_of(x, self.out(mixed.squeeze(0).permute(2, 3, 0, 1)))

    def _filters(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Filters of the positions, (B, H', W', k k), and of the channels, (B, C_out, k k), of `x` (B, C_in, H, W)."""
        position = self.spatial(every_nth(x, self.stride)).permute(0, 2, 3, 1)
        channel = self.channel(global_mean(x)).flatten(1).unflatten(1, (self.out_channels, -1))
        shape = channel.shape[1:]
        with autocast_off(x.device):
            return (
                _normalized(position) * self.spatial_gain + self.spatial_shift,
                _normalized(channel) * self.channel_gain.view(shape) + self.channel_shift.view(shape),
            )

    def _record(self, position: Tensor, x: Tensor) -> None:
        """Notes the filters (B, H', W', k k) of positions down; those of channels are the same everywhere."""
        rows, columns = (
            neighbourhood_rows(queries, self.kernel_size, self.stride, 1, x.device) for queries in position.shape[1:3]
        )
        self.record("key", position.unsqueeze(1).unflatten(-1, (self.kernel_size, self.kernel_size)), rows, columns)


def _normalized(filters: Tensor) -> Tensor:
    """Filters (..., k k) with mean 0 and deviation 1, in float32 or better."""
    filters = at_least_float32(filters)
    centred = filters - filters.mean(-1, keepdim=True)
    normalized: Tensor = centred * (centred.square().mean(-1, keepdim=True) + _EPSILON).rsqrt()
    return normalized
