"""Attention stem of stand-alone self-attention (Ramachandran et al., NeurIPS 2019, arXiv 1906.05909)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Mixer, check_at_least, check_choice
from attention.functional.layout import in_format_of
from attention.functional.logits import at_least_float32, autocast_off

Values = Literal["mixture", "pointwise", "convolution"]


class AttentionStem(Mixer):
    """First layer of a network: attention inside small blocks of the image, with values that know their place.

        p_ab = softmax_m((e_a + f_b) . nu_m)                        (M) at every place (a, b) of an s x s block
        v_ab = (sum_m p_abm W_m) x_ab,   q = W_Q x,   k = W_K x     (C, H, W)
        o_ij = sum_ab softmax_ab(q_ij . k_ab) v_ab                  over the block of (i, j), for every head
        y = max-pool_{s x s}(BN(o))                                 (B, C, ceil(H / s), ceil(W / s))

    arXiv 1906.05909, section 3.2 and its appendix on the stem: s = 4, four heads, logits of content alone (no relative
    term and no scaling in the equation), mixture weights shared by the heads, no activation ahead of the pooling. The
    paper does not give the number M of mixtures and the width E of the embeddings: 4 and 16 are this package's choice,
    1,344 parameters for 64 channels, as are the initialisations (embeddings normal, nu normal with variance 1 / E):
    assumption A3.

    Other `values` are the paper's ablation: `pointwise` has one matrix W_V for all places, `convolution` a k x k
    convolution of the image. Its kernel is not given: 4 is what the printed operations demand (7.4 GFLOPs of ResNet-50
    against 7.1 with one matrix), with zeros around the map, one more behind it than ahead (assumption A58).

    On maps that blocks do not divide, the last blocks have fewer keys and the last pooling windows fewer values: what
    would lie outside takes part in no softmax, in no statistics of the normalisation and in no maximum.

    Queries, keys and values are never formed: q . k = x_ij^T (W_Q^T W_K) x_ab has C_in x C_in numbers per head, and the
    mixture commutes with the sum over keys, so that M C_in numbers are summed and mapped to the head's channels once.
    Compiles and exports for any size; exported programs copy the map once more.

    Parameters: (M + 2) C_in C + (2 s + M) E + 2 C, `pointwise` 3 C_in C + 2 C, `convolution` (2 + k^2) C_in C + 2 C.
    Cost: heads H W (C_in^2 + s^2 (M + 1) C_in + M C_in C) multiply-accumulates, `convolution` H W (heads C_in^2 + s^2
    (heads C_in + C) + k^2 C_in C); weights, s^2 heads numbers per position, and results are held at the resolution of
    the input.

    Place: for the first convolution and its pooling, on the image.

    Args:
        in_channels: Number of channels C_in of the input, 3 for images.
        out_channels: Number of channels C of the output map, a multiple of `heads`.
        stride: Side s of the blocks and of the pooling windows in cells, at least 1. The paper takes 4.
        heads: Number of heads, at least 1. The paper takes 4.
        mixtures: Number M of value matrices that are mixed at every place of a block, at least 1.
        embedding: Width E of the embeddings of rows and columns, at least 1.
        values: What values are made by: a `mixture` of matrices by place (the paper), one `pointwise` matrix, or a
            `convolution`. The two others have no use for `mixtures` and `embedding`.
        value_kernel: Side k of this convolution, at least 1.
    """

    position_tables = ("row_embedding", "column_embedding")

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 64,
        stride: int = 4,
        heads: int = 4,
        mixtures: int = 4,
        embedding: int = 16,
        values: Values = "mixture",
        value_kernel: int = 4,
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        check_at_least(1, heads=heads, mixtures=mixtures, embedding=embedding, value_kernel=value_kernel)
        check_choice("values", values, get_args(Values))
        if out_channels % heads:
            raise ValueError(f"heads={heads} does not divide out_channels={out_channels}; give a divisor of it")
        self.heads = heads
        self.query = nn.Linear(in_channels, out_channels, bias=False)
        self.key = nn.Linear(in_channels, out_channels, bias=False)
        self.values: Values = values
        if values == "convolution":
            self.value_convolution = nn.Conv2d(in_channels, out_channels, value_kernel, bias=False)
        else:
            mixtures = mixtures if values == "mixture" else 1
            self.value = nn.Parameter(torch.empty(mixtures, out_channels, in_channels))
            for matrix in self.value.data:
                nn.init.kaiming_uniform_(matrix, a=5**0.5)  # as PyTorch's linear layers
        if values == "mixture":
            self.row_embedding = nn.Parameter(torch.randn(stride, embedding))
            self.column_embedding = nn.Parameter(torch.randn(stride, embedding))
            self.mixture_embedding = nn.Parameter(torch.randn(mixtures, embedding) / embedding**0.5)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes `x` (B, C_in, H, W) into a map (B, C, ceil(H / stride), ceil(W / stride))."""
        inside = self._blocks(F.pad(torch.ones_like(x[:, :1]), self._padding(x), value=0.0))  # (N, K, 1)
        blocks = self._blocks(F.pad(x, self._padding(x)))  # (N, K, C_in)
        weights = self._weights(blocks, inside.log().transpose(1, 2))  # (N, K heads, K)
        if self.recording:
            self._record(weights, x)
        mixed = self._convolved(weights, x) if self.values == "convolution" else self._mixed(weights, blocks)
        out = self.bn(self._as_map(mixed, x))
        if torch.compiler.is_exporting():  # exporters cannot tell that the last of the windows starts inside the map
            out = F.pad(out, self._padding(x), value=-torch.inf)
        return in_format_of(x, F.max_pool2d(out, self.stride, ceil_mode=not torch.compiler.is_exporting()))

    def _padding(self, x: Tensor) -> tuple[int, int, int, int]:
        """Columns and rows that are missing at the end of a map (B, ., H, W), in the form that `pad` takes."""
        rows, columns = self._counts(x)
        return 0, columns * self.stride - x.shape[3], 0, rows * self.stride - x.shape[2]

    def _counts(self, x: Tensor) -> tuple[int, int]:
        """Rows h and columns w of blocks on a map (B, ., H, W)."""
        return (x.shape[2] + self.stride - 1) // self.stride, (x.shape[3] + self.stride - 1) // self.stride

    def _blocks(self, padded: Tensor) -> Tensor:
        """A map (B, c, h s, w s) as blocks (N, K, c) with N = B h w and K = s^2."""
        rows, columns = self._counts(padded)
        split = padded.reshape(*padded.shape[:2], rows, self.stride, columns, self.stride)
        return split.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2)

    def _as_map(self, out: Tensor, x: Tensor) -> Tensor:
        """Blocks (N, K, C) in their place on a map as large as `x`, (B, C, H, W)."""
        (batch, _, height, width), (rows, columns), side = x.shape, self._counts(x), self.stride
        if torch.compiler.is_exporting():  # operators that export for any size; a copy more
            cells = out.reshape(batch, rows, columns, side**2, self.out_channels).permute(0, 4, 3, 1, 2)
            crop = tuple(-cells for cells in self._padding(x))
            return F.pad(F.pixel_shuffle(cells.flatten(1, 2), side), crop)
        out = out.reshape(batch, rows, columns, side, side, self.out_channels).transpose(2, 3)
        out = out.reshape(batch, rows * side, columns * side, self.out_channels)
        return out.permute(0, 3, 1, 2)[:, :, :height, :width]

    def _weights(self, blocks: Tensor, own: Tensor) -> Tensor:
        """What every query of the blocks (N, K, C_in) gives to every key in each head, (N, K heads, K).

        The logit of a key by its place, `own` (N, 1, K), is minus infinity outside the map.
        """
        with autocast_off(blocks.device):  # products of queries and keys, which nothing scales, leave float16's range
            wide = at_least_float32(blocks)
            query, key = (layer.weight.to(wide).unflatten(0, (self.heads, -1)) for layer in (self.query, self.key))
            between = (key.transpose(1, 2) @ query).flatten(0, 1)  # (heads C_in, C_in)
            towards = F.linear(wide, between).unflatten(2, (self.heads, -1)).flatten(1, 2)  # (N, K heads, C_in)
            weights = torch.baddbmm(own.to(wide), towards, wide.transpose(1, 2)).softmax(2)
        return weights.to(blocks.dtype)

    def _mixed(self, weights: Tensor, blocks: Tensor) -> Tensor:
        """Values summed under the weights (N, K heads, K), as (N, K, C).

        The mixture commutes with the sum over keys: every head sums the inputs times p, M C_in numbers, of which one
        matrix makes its output.
        """
        mixed = blocks
        if self.values == "mixture":
            places = (self.row_embedding.unsqueeze(1) + self.column_embedding).flatten(0, 1)  # (K, E)
            mixture = (places @ self.mixture_embedding.T).softmax(1)  # (K, M)
            mixed = (mixture.unsqueeze(2).to(blocks.dtype) * blocks.unsqueeze(2)).flatten(2)  # (N, K, M C_in)
        summed = weights @ mixed.to(weights.dtype)  # (N, K heads, M C_in)
        summed = summed.unflatten(1, (-1, self.heads)).flatten(2)  # (N, K, heads M C_in)
        matrices = self.value.transpose(0, 1).flatten(1)  # (C, M C_in)
        own = torch.eye(self.heads, dtype=matrices.dtype, device=matrices.device)
        # Block-diagonal, so that every head's rows see its sums alone: one large product is faster than one per head.
        matrices = own[:, None, :, None] * matrices.unflatten(0, (self.heads, -1)).unsqueeze(2)
        return F.linear(summed, matrices.flatten(2).flatten(0, 1))

    def _convolved(self, weights: Tensor, x: Tensor) -> Tensor:
        """Convolved values of a map (B, C_in, H, W) summed under the weights (N, K heads, K), as (N, K, C)."""
        kernel = self.value_convolution.kernel_size[0]
        ahead, behind = (kernel - 1) // 2, kernel // 2
        values = self.value_convolution(F.pad(x, (ahead, behind, ahead, behind), value=0.0))  # (B, C, H, W)
        values = self._blocks(F.pad(values, self._padding(x))).unflatten(
            2, (self.heads, -1)
        )  # (N, K, heads, C / heads)
        by_head = weights.unflatten(1, (-1, self.heads)).transpose(1, 2)  # (N, heads, K, K)
        summed = by_head @ values.transpose(1, 2).to(weights.dtype)
        return summed.transpose(1, 2).flatten(2)

    def _record(self, weights: Tensor, x: Tensor) -> None:
        """Notes the weights (N, K heads, K) down for every query inside the map."""
        (batch, _, height, width), (rows, columns), side = x.shape, self._counts(x), self.stride
        weights = weights.reshape(batch, rows, columns, side, side, self.heads, side, side)
        weights = weights.permute(0, 5, 1, 3, 2, 4, 6, 7).flatten(4, 5).flatten(2, 3)  # (B, heads, h s, w s, s, s)
        tables = (
            torch.arange(count * side, device=x.device).unflatten(0, (-1, side)).repeat_interleave(side, 0)[:size]
            for count, size in ((rows, height), (columns, width))
        )
        self.record("key", weights[:, :, :height, :width], *tables)
