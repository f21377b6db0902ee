"""Self-attention that expresses convolutions (Cordonnier et al., ICLR 2020, arXiv 1911.03584)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from attention.base import check_at_least, check_choice
from attention.offsets import RelativeSelfAttention, without_traces

Covariance = Literal["isotropic", "full"]

LITERAL_WEIGHTS = 1 << 24
"""Attention weights that are held at a time where they cannot be split into rows and columns (64 MiB)."""


class QuadraticSelfAttention(RelativeSelfAttention):
    """Heads that attend with a Gaussian around a learned offset; K^2 of them express any K x K convolution.

        A_h(delta) = -1/2 (delta - D_h)^T S_h S_h^T (delta - D_h),   delta = key - query          (H W) per query
        y_q = sum_h W_h sum_k softmax_k(A_h(k - q)) x_k + b                                       (B, C_out, H', W')

    arXiv 1911.03584, equations 8 and 9: the quadratic encoding, with S_h S_h^T = 2 alpha_h I where isotropic. As in the
    authors' code every head sums the raw input and one linear layer reads all heads; attention does not depend on the
    content. An isotropic Gaussian is the product of one over rows and one over columns, and so is its softmax, hence it
    is summed exactly by rows and then by columns. With a full covariance all H' W' H W weights of a head are needed;
    eager mode makes them in groups of query rows and once more in the backward pass, compiled and exported graphs all
    at once. There is no dropout of weights, which would not split into rows and columns. Weights below the cube of the
    rounding unit count as zero. Exported programs compute every query and keep each stride-th.

    Borders: keys lie inside the map, so a sharp head whose centre falls outside picks the nearest position inside,
    which is a convolution's replicate padding (assumption A26). With `zero_padding` cells of zeros around the map are
    keys as well.

    Parameters: heads (C_in C_out + 3) + C_out, full covariance heads (C_in C_out + 6) + C_out. Cost: heads
    (H' W H + H' W' W + H' W' C_out) C_in multiply-accumulates and two maps of memory per head in training; full
    covariance heads H' W' (H W + C_out) C_in.

    Place: for a K x K convolution, with K^2 heads.

    Centres start normally distributed with standard deviation 2 and spreads S at one (the identity) plus 0.01 times
    normal noise, as in the authors' code.

    Args:
        in_channels: Number of channels C_in of the input map, at least 1.
        out_channels: Number of channels C_out of the output map, at least 1.
        stride: Distance of the queries in cells in both directions, at least 1.
        heads: Number of heads, at least 1. The paper takes 9.
        covariance: `isotropic` (the paper's quadratic encoding) or `full` (generalised: a 2 x 2 matrix S per head).
        zero_padding: Cells of zeros around the map that are keys as well, at least 0.
    """

    position_tables = ("centres", "spreads")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        heads: int = 9,
        covariance: Covariance = "isotropic",
        zero_padding: int = 0,
    ) -> None:
        super().__init__(in_channels, out_channels, stride, heads)
        check_choice("covariance", covariance, get_args(Covariance))
        check_at_least(0, zero_padding=zero_padding)
        self.covariance: Covariance = covariance
        self.zero_padding = zero_padding
        self.centres = nn.Parameter(2 * torch.randn(heads, 2))  # rows, columns
        spreads = torch.ones(heads) if covariance == "isotropic" else torch.eye(2).repeat(heads, 1, 1)
        self.spreads = nn.Parameter(spreads + 0.01 * torch.randn(spreads.shape))

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, sharpness: float = 46.0) -> "QuadraticSelfAttention":
        """The layer that computes what a convolution computes, in its dtype and on its device.

        One head per cell of the kernel, centred there; dilation spreads the centres and groups become a dense matrix.
        Zeros around the map become `zero_padding`; `padding_mode="replicate"` needs nothing. Where a strided
        convolution drops an incomplete last window, the layer, whose output has ceil(size / stride) cells, has it.

        Args:
            conv: The convolution, with one stride for both directions and a padding that keeps ceil(size / stride).
            sharpness: Inverse squared width alpha of the heads per squared cell; the error relative to the
                convolution is about 4 exp(-alpha), and 46 is below rounding in double precision.
        """
        rate = conv.stride[0]
        if conv.stride != (rate, rate):
            raise ValueError(f"stride={conv.stride} differs by direction; give a convolution with one stride")
        if conv.padding_mode not in ("zeros", "replicate"):
            raise ValueError(f"padding_mode={conv.padding_mode!r} cannot be attended to; give zeros or replicate")
        if sharpness <= 0:
            raise ValueError(f"sharpness={sharpness} makes no peak; give a positive number such as 46")
        extents = [dilation * (side - 1) for dilation, side in zip(conv.dilation, conv.kernel_size, strict=True)]
        if conv.padding == "same":
            before = [extent // 2 for extent in extents]
            padded = extents
        else:
            before = [0, 0] if isinstance(conv.padding, str) else list(conv.padding)
            padded = [2 * cells for cells in before]
        for total, extent in zip(padded, extents, strict=True):
            if not 0 <= extent - total < rate:
                raise ValueError(
                    f"padding={conv.padding} with kernel_size={conv.kernel_size}, dilation={conv.dilation}, "
                    f"stride={rate} does not give ceil(size / stride) cells; pad by half the kernel's extent or 'same'"
                )
        reach = max(0, *before, *(extent - cells for extent, cells in zip(extents, before, strict=True)))
        height, width = conv.kernel_size
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            rate,
            height * width,
            zero_padding=reach if conv.padding_mode == "zeros" else 0,
        ).to(conv.weight)
        rows, columns = (
            torch.arange(side) * dilation - cells
            for side, dilation, cells in zip(conv.kernel_size, conv.dilation, before, strict=True)
        )
        kernel = torch.cat(  # (C_out, C_in, K, K)
            [
                F.pad(part, (0, 0, 0, 0, group * part.shape[1], conv.in_channels - (group + 1) * part.shape[1]))
                for group, part in enumerate(conv.weight.chunk(conv.groups))
            ]
        )
        with torch.no_grad():
            layer.centres.copy_(torch.cartesian_prod(rows, columns))
            layer.spreads.fill_((2 * sharpness) ** 0.5)
            layer.value.weight.copy_(kernel.permute(0, 2, 3, 1).flatten(1))  # heads outside, channels inside
            if conv.bias is None:
                layer.value.bias.zero_()
            else:
                layer.value.bias.copy_(conv.bias)
        return layer.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes `x` (B, C_in, H, W) into a map (B, C_out, ceil(H / stride), ceil(W / stride))."""
        precise = torch.promote_types(self.centres.dtype, torch.float32)
        rows, columns = (  # delta - D: (heads, H', h) and (heads, W', w)
            self._offsets(size, x.device, self.zero_padding) - centre.to(precise)[:, None, None]
            for size, centre in zip(x.shape[2:], self.centres.unbind(1), strict=True)
        )
        if self.covariance == "full":
            return self._literal(x, rows, columns)
        sharpness = self.spreads.to(precise).square()[:, None, None] / 2
        rows, columns = ((-sharpness * offsets.square()).softmax(2) for offsets in (rows, columns))
        if self.recording:
            self._record((rows[:, :, None, :, None] * columns[:, None, :, None, :]).unsqueeze(0), x, self.zero_padding)
        first, (height, width) = self.zero_padding, x.shape[2:]  # zeros outside count in the softmax, not in the sum
        return self._separable(x, rows[:, :, first : first + height], columns[:, :, first : first + width])

    def _literal(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Output map from offsets (heads, H', h) and (heads, W', w), by all weights of some query rows at a time."""
        row_weights = self.heads * columns.shape[1] * columns.shape[2] * rows.shape[2]
        traced = torch.compiler.is_compiling()
        groups = (rows,) if traced else rows.split(max(1, LITERAL_WEIGHTS // row_weights), 1)
        if self.recording:
            self._record(self._weights(rows, columns).unsqueeze(0), x, self.zero_padding)
        out = [
            checkpoint(self._literal_rows, x, group, columns, use_reentrant=False, preserve_rng_state=False)
            if len(groups) > 1 and torch.is_grad_enabled()
            else self._literal_rows(x, group, columns)
            for group in groups
        ]
        return self._as_map(torch.cat(out, 1), x)

    def _literal_rows(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Output (B, r, W', C_out) of r query rows with offsets (heads, r, h)."""
        first, (height, width) = self.zero_padding, x.shape[2:]
        weights = self._weights(rows, columns)[..., first : first + height, first : first + width]
        weights = without_traces(weights).to(x.dtype)
        tokens = x.flatten(2).transpose(1, 2)  # (B, H W, C)
        attended = torch.bmm(weights.flatten(3).flatten(0, 2).expand(x.shape[0], -1, -1), tokens)
        attended = attended.unflatten(1, (self.heads, rows.shape[1], columns.shape[1]))  # (B, heads, r, W', C)
        return self.value(attended.permute(0, 2, 3, 1, 4).flatten(3))

    def _weights(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Weights (heads, r, W', h, w) from offsets (heads, r, h) and (heads, W', w)."""
        rows, columns = rows[:, :, None, :, None], columns[:, None, :, None, :]
        spreads = self.spreads.to(rows.dtype)
        inverse = (spreads @ spreads.transpose(1, 2))[..., None, None, None, None]
        scores = inverse[:, 0, 0] * rows.square() / -2 - inverse[:, 0, 1] * rows * columns
        scores = scores - inverse[:, 1, 1] * columns.square() / 2
        return scores.flatten(3).softmax(3).unflatten(3, scores.shape[3:])
