"""Channelized axial attention, CAA (Huang et al., AAAI 2022, arXiv 2101.07434), without its tensor of contributions."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from attention.base import Refine, bottleneck_channels, check_at_least, check_choice
from attention.functional.layout import in_format_of
from attention.functional.logits import axial_attention, axial_weights, channelized_axial_attention

Channelization = Literal["deep", "plain", "none"]


class ChannelizedAxialAttention(Refine):
    """Axial attention along columns, then rows, that weights channels before it sums over keys.

        a_{ij,m} = softmax_m(t_ij . t_mj) g_mj,   t = relu(BN(W_t x))  (B, d, H, W),   g = relu(BN(W_g x))  (B, C, H, W)
        Y_ij = sum_m sigmoid(MLP_col(mean_{j,m} a_{ij,m})) * a_{ij,m}                                (B, C, H, W)
        b_{ij,n} = softmax_n(s_ij . s_in) Y_in,   s = relu(BN(W_s x))                                (B, d, H, W)
        z_ij = sum_n sigmoid(MLP_row(mean_{i,n} b_{ij,n})) * b_{ij,n}                                (B, C, H, W)

    Queries and keys share one projection per axis, both of the input x; there is no 1 / sqrt(d), no positional term and
    one head. The gate of the column step is one vector per query row, that of the row step one per query column. It
    does not depend on the key, so it is computed from the mean of ordinary axial attention divided by H (by W) and
    applied after the sum: the result is exact, and the contributions (H W (H + W) C numbers), which the authors'
    grouped vectorisation computes piece by piece, never exist.

    `deep` gates are those of the authors' second release (their CAR repository): five hidden layers of C / reduction
    units with leaky ReLU of slope 0.2; `plain` has one hidden layer with ReLU; `none` is axial attention alone. No
    layer of the gates has a bias. There is no residual connection inside. The authors' framework normalises with
    epsilon 1e-3, PyTorch with 1e-5; both are an option (assumption A24). Any H and W; nothing is padded. The logits,
    which are neither scaled nor bounded, and the softmax stay in float32 under autocast. Compiles and exports for any
    size.

    Parameters: 2 (C d + 2 d) + C^2 + 2 C + 2 (2 C m + 4 m^2) with m = floor(C / reduction); with n hidden layers n - 1
    in place of 4, with none 2 C^2 in place of the last term; `plain` without the 4 m^2, `none` without both gates.
    Cost: H W (2 C d + C^2 + (d + C) (H + W)) multiply-accumulates and the gates' H + W vectors; memory
    H W (H + W) weights.

    Place: behind the 3x3 convolution that narrows the last stage in a segmentation head, before its 1x1 convolution.

    Args:
        channels: Number of channels C of the map, at least 1.
        key_channels: Number of channels d of the shared projections of queries and keys, at least 1.
        channelization: Gates: `deep` (the paper), `plain` (one hidden layer) or `none` (axial attention alone).
        reduction: Divisor of the gates' hidden width m = floor(C / r), from 1 to C.
        epsilon: Epsilon of the batch normalisations, positive; the authors' framework takes 1e-3.
        hidden_layers: Hidden layers of the gates instead of those of `channelization`, 0 to 5 in the paper's ablation;
            0 leaves one layer of C to C.
        slope: Slope of their leaky ReLU below zero instead of that of `channelization`; 0 is ReLU.
        groups: Parts that the queries of a line are attended to one after another in: less memory, the same result.
    """

    def __init__(
        self,
        channels: int,
        key_channels: int = 64,
        channelization: Channelization = "deep",
        reduction: int = 4,
        epsilon: float = 1e-5,
        hidden_layers: int | None = None,
        slope: float | None = None,
        groups: int = 1,
    ) -> None:
        super().__init__(channels)
        check_at_least(1, key_channels=key_channels, groups=groups)
        if channelization == "none" and (hidden_layers, slope) != (None, None):
            raise ValueError("channelization='none' has no gates; leave hidden_layers and slope out")
        check_at_least(0, hidden_layers=hidden_layers or 0)
        check_choice("channelization", channelization, get_args(Channelization))
        if not epsilon > 0:
            raise ValueError(f"epsilon={epsilon} is no safeguard of a division; give a positive number such as 1e-5")
        width = bottleneck_channels(channels, reduction)
        self.channelization: Channelization = channelization
        self.column_key = _projection(channels, key_channels, epsilon)
        self.row_key = _projection(channels, key_channels, epsilon)
        self.value = _projection(channels, channels, epsilon)
        self.column_gate = _gate(channels, width, channelization, hidden_layers, slope)
        self.row_gate = _gate(channels, width, channelization, hidden_layers, slope)
        self.groups = groups
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes `x` (B, C, H, W) along its columns and rows."""
        columns = self.column_key(x).permute(0, 3, 2, 1)  # (B, W, H, d)
        rows = self.row_key(x).permute(0, 2, 3, 1)  # (B, H, W, d)
        values = self.value(x).permute(0, 3, 2, 1)  # (B, W, H, C)
        attended = self._attend(columns, values, self.column_gate)
        attended = self._attend(rows, attended.transpose(1, 2), self.row_gate)  # (B, H, W, C)
        if self.recording:
            self._record(columns, rows)
        return in_format_of(x, attended.permute(0, 3, 1, 2))

    def _attend(self, keys: Tensor, values: Tensor, gate: nn.Module) -> Tensor:
        """One step along axis 2 of keys (B, M, L, d) and values (B, M, L, C)."""
        if self.channelization == "none":
            return axial_attention(keys, keys, values, self.groups)
        return channelized_axial_attention(keys, keys, values, gate, self.groups)

    def _record(self, columns: Tensor, rows: Tensor) -> None:
        width, height = columns.shape[1:3]
        down = torch.arange(height, device=columns.device)
        across = torch.arange(width, device=columns.device)
        of_columns = axial_weights(columns, columns).transpose(1, 2)  # (B, H, W, H)
        of_rows = axial_weights(rows, rows)  # (B, H, W, W)
        self.record("column", of_columns[:, None, ..., None], down.expand(height, height), across.unsqueeze(1))
        self.record("row", of_rows[:, None, :, :, None], down.unsqueeze(1), across.expand(width, width))


def _projection(channels: int, width: int, epsilon: float) -> nn.Sequential:
    """Convolution 1 x 1, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width, epsilon), nn.ReLU(inplace=True)
    )


def _gate(
    channels: int, width: int, channelization: Channelization, hidden_layers: int | None, slope: float | None
) -> nn.Module:
    """Gate of one axis, over the last axis of (B, L, C)."""
    if channelization == "none":
        return nn.Identity()
    hidden, usual = (5, 0.2) if channelization == "deep" else (1, 0.0)
    hidden = hidden if hidden_layers is None else hidden_layers
    slope = usual if slope is None else slope
    layers: list[nn.Module] = []
    for depth in range(hidden):
        layers += [nn.Linear(width if depth else channels, width, bias=False), nn.LeakyReLU(slope, inplace=True)]
    return nn.Sequential(*layers, nn.Linear(width if hidden else channels, channels, bias=False), nn.Sigmoid())
