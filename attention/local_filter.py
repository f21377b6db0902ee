"""Local filters between depth-wise convolution and local self-attention (Zhou et al., ELSA, arXiv 2112.12786)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Mixer, check_at_least, check_choice, check_divides, check_odd
from attention.functional.layout import (
    channels_last,
    every_nth,
    fills_windows,
    in_format_of,
    merge_windows,
    split_windows,
    window_mask,
)
from attention.functional.logits import at_least_float32, autocast_off, precise_logits, products
from attention.functional.neighbourhood import inside_map, neighbourhood_products, neighbourhood_rows, neighbourhood_sum

Term = Literal["content", "query", "key", "bias"]
Normalization = Literal["none", "softmax", "filter_norm"]
Application = Literal["neighbourhood", "window"]
_EPSILON = 1e-5  # of filter normalisation


class LocalFilter(Mixer):
    """Every position sums the values around it with weights of any form between a convolution's and self-attention's.

        q, k, v = W_q x, W_k x, W_v x                                            (B, heads, D, H, W) each
        s(i, j) = scale q_i . k_j + q_i . r_{j-i} + u_{j-i} . k_j + b_{j-i}      the sum of the chosen terms, by head
        f(i, j) = norm_j s(i, j)                                                 j around i, or in the window of i
        y_i = W_o sum_j f(i, j) v_j + b_o                                        (B, C_out, H', W')

    arXiv 2112.12786, section 3, which compares depth-wise convolutions, dynamic filters and local self-attention as
    such filters. By `terms`, what weights are made of:

        bias                    a static kernel: with a head a channel and no normalisation the depth-wise convolution
        query, bias             predicted from the position itself: dynamic filters, as in DDF (arXiv 2104.14107)
        content, bias           local self-attention; in windows that of Swin (arXiv 2103.14030)
        content, query, key, bias   local self-attention with all relative terms

    `filter_norm` is DDF's: weights of a query less their mean, divided by their deviation, times a learned gain, plus a
    learned shift, both by head and offset. Cells outside the map take part in no normalisation and have no value
    (assumption A54). It compiles, and exports for any size unless windows are shifted by k - 1 cells, whose number
    exporters cannot follow.

    Parameters: C_out (C_in + C_out + 1), W_q and W_k where a term needs them C_in C_out each, with a bias C_out more
    for each projection; r and u C_out T each, b heads T, `filter_norm` 2 heads T, where T is k^2 offsets around a
    position and (2 k - 1)^2 in a window. Cost: for every term but the bias and for the sum k^2 C_out multiply-
    accumulates a position, 2 C_out^2 for W_v and W_o, C_out^2 for each of the others.

    Place: instead of window attention in Swin, or of a spatial convolution.

    Args:
        in_channels: Number of channels C_in of the input map, at least 1.
        out_channels: Number of channels C_out of the output map, a multiple of `head_channels`.
        stride: Subsampling factor of the output map in both directions, at least 1.
        kernel_size: Side k of the neighbourhood, odd, or of the window, in cells.
        head_channels: Channels D that share the weights of a head; 1 gives every channel weights of its own.
        terms: What weights are the sum of, some of `content`, `query`, `key` and `bias`.
        normalization: `none`, `softmax` or `filter_norm`.
        application: `neighbourhood`, the k x k cells around every position, or `window`, windows of k x k cells that
            do not overlap. The arms of ELSA's comparison differ in this, too.
        shift: Distance that windows are shifted by, 0 to k - 1; windows only. `Swin` shifts every other block's.
        scale: Factor of q . k; none gives D^-1/2.
        bias: Whether the projections to queries, keys and values have biases.
    """

    position_tables = ("relative_query", "relative_key", "relative_bias")
    index: Tensor
    relative_query: nn.Parameter | None
    relative_key: nn.Parameter | None
    kernels: nn.Parameter
    relative_bias: nn.Parameter

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        kernel_size: int = 7,
        head_channels: int = 32,
        terms: tuple[Term, ...] = ("content", "bias"),
        normalization: Normalization = "softmax",
        application: Application = "neighbourhood",
        shift: int = 0,
        scale: float | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        check_at_least(1, kernel_size=kernel_size, head_channels=head_channels)
        check_divides("out_channels", out_channels, "head_channels", head_channels)
        check_choice("normalization", normalization, get_args(Normalization))
        check_choice("application", application, get_args(Application))
        for term in terms or ("",):
            check_choice("terms", term, get_args(Term))
        if application == "neighbourhood":
            check_odd(kernel_size=kernel_size)
        self.kernel_size, self.heads = kernel_size, out_channels // head_channels
        self.terms = frozenset(terms)
        self.normalization: Normalization = normalization
        self.application: Application = application
        self.shift_windows(shift)
        self.scale = head_channels**-0.5 if scale is None else scale

        def projection() -> nn.Conv2d:
            return nn.Conv2d(in_channels, out_channels, 1, bias=bias)

        self.query = projection() if self.terms & {"content", "query"} else None
        self.key = projection() if self.terms & {"content", "key"} else None
        self.value = projection()
        self.out = nn.Conv2d(out_channels, out_channels, 1)
        offsets = (kernel_size if application == "neighbourhood" else 2 * kernel_size - 1) ** 2
        # Without a normalisation the sum of k^2 values keeps their variance; a softmax starts near the mean.
        deviation = 0.02 if normalization == "softmax" else 1 / kernel_size

        def table(term: Term, *shape: int) -> nn.Parameter | None:
            size = deviation if term == "bias" else deviation * head_channels**-0.5
            return nn.Parameter(torch.randn(self.heads, *shape, offsets) * size) if term in self.terms else None

        self.register_parameter("relative_query", table("query", head_channels))
        self.register_parameter("relative_key", table("key", head_channels))
        # Alone it is a kernel, which decays as those of convolutions do.
        self.register_parameter("kernels" if self.terms == {"bias"} else "relative_bias", table("bias"))
        if normalization == "filter_norm":
            # One axis, as those of other normalisations have it, by which recipes know what does not decay.
            self.gain = nn.Parameter(torch.full((self.heads * offsets,), 1 / kernel_size))
            self.offset = nn.Parameter(torch.zeros(self.heads * offsets))
        if application == "window":
            self.register_buffer("index", self._offsets(), persistent=False)

    def extra_repr(self) -> str:
        """What its parts do not show: which of the family it is."""
        terms = ", ".join(term for term in get_args(Term) if term in self.terms)
        form = f"terms=({terms}), normalization={self.normalization}, application={self.application}"
        return f"{form}, kernel_size={self.kernel_size}, heads={self.heads}, shift={self.shift}"

    def shift_windows(self, shift: int) -> None:
        """Shifts the windows by so many cells, 0 to k - 1."""
        if not 0 <= shift < self.kernel_size or (shift and self.application != "window"):
            raise ValueError(
                f"shift={shift} with application={self.application!r} is not possible; give 0 to {self.kernel_size - 1}"
                " with application='window', or 0"
            )
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        """Mixes `x` (B, C_in, H, W) into (B, C_out, ceil(H / stride), ceil(W / stride))."""
        if self.application == "window":
            return self._in_windows(x)
        projected = channels_last(x)
        value = self.value(projected)
        query = None if self.query is None else self.query(projected)
        key = None if self.key is None else self.key(projected)
        if self.terms == {"bias"} and self.normalization != "filter_norm" and not self.recording:
            mixed = self._convolved(value)
        else:
            mixed = self._around(query, key, value)
        return in_format_of(x, self.out(mixed))

    def _convolved(self, value: Tensor) -> Tensor:
        """The static form of `_around`, which is a depth-wise convolution, of values (B, C_out, H, W)."""
        kernels = self.kernels.unflatten(1, (1, self.kernel_size, self.kernel_size))  # (heads, 1, k, k)
        reach = self.kernel_size // 2
        if self.normalization == "softmax":
            kernels = (kernels - kernels.amax((2, 3), keepdim=True).detach()).exp()
        every = kernels.repeat_interleave(self.out_channels // self.heads, 0)
        total = F.conv2d(value, every, None, self.stride, reach, 1, self.out_channels)
        if self.normalization == "none":
            return total
        ones = F.conv2d(torch.ones_like(value[:1, :1]), kernels, None, self.stride, reach)  # over the cells inside
        return total / ones.repeat_interleave(self.out_channels // self.heads, 1)

    def _around(self, query: Tensor | None, key: Tensor | None, value: Tensor) -> Tensor:
        """Sums over the neighbourhood of every query, (B, C_out, H', W'), of maps (B, C_out, H, W)."""
        k, stride = self.kernel_size, self.stride
        values = self._by_head(value)
        at = values if stride == 1 else self._by_head(every_nth(value, stride))  # for its size
        rows, columns = (neighbourhood_rows(size, k, stride, 1, value.device) for size in at.shape[1:3])
        scores = values.new_zeros((1, 1, 1, self.heads, k**2), dtype=at_least_float32(values[:0]).dtype)
        with autocast_off(value.device):
            queries = None if query is None else at_least_float32(self._by_head(every_nth(query, stride)))
            keys = None if key is None else at_least_float32(self._by_head(key))
            if "content" in self.terms:
                assert queries is not None and keys is not None
                scores = scores + neighbourhood_products(queries * self.scale, keys, k, stride)
            if self.relative_query is not None:
                scores = scores + torch.einsum("bijhd,hdt->bijht", queries, self.relative_query)
            if self.relative_key is not None:
                scores = scores + self._seen(torch.einsum("bijhd,hdt->bijht", keys, self.relative_key))
            if "bias" in self.terms:
                scores = scores + self._biases()
            inside = inside_map(rows, value.shape[2])[:, None, :, None] & inside_map(columns, value.shape[3])[:, None]
            weights = self._normalized(scores, inside.flatten(2).unsqueeze(2), slice(None))
        weights = weights.expand(*at.shape[:3], -1, -1)
        if self.recording:
            self.record("key", weights.permute(0, 3, 1, 2, 4).unflatten(-1, (k, k)), rows, columns)
        return neighbourhood_sum(weights, values, stride).flatten(3).permute(0, 3, 1, 2)

    def _biases(self) -> Tensor:
        """What the term `bias` adds at each offset, (heads, T)."""
        return self.kernels if self.terms == {"bias"} else self.relative_bias

    def _seen(self, of_keys: Tensor) -> Tensor:
        """What keys (B, H, W, heads, k k) say to the queries that see them at each offset, (B, H', W', heads, k k)."""
        k, reach = self.kernel_size, self.kernel_size // 2
        padded = F.pad(of_keys.permute(0, 3, 4, 1, 2), (reach, reach, reach, reach))  # (B, heads, k k, ...)
        height, width = of_keys.shape[1:3]
        cells = [padded[:, :, t, t // k : t // k + height, t % k : t % k + width] for t in range(k * k)]
        seen = torch.stack([every_nth(cell, self.stride) for cell in cells], -1)
        return seen.permute(0, 2, 3, 1, 4)

    def _in_windows(self, x: Tensor) -> Tensor:
        """The operator in windows, `x` (B, C_in, H, W) into (B, C_out, H', W')."""
        before = -self.shift % self.kernel_size
        inside = None if fills_windows(x, self.kernel_size, before) else window_mask(x, self.kernel_size, before)
        query, key, values = self._tokens(x, before)
        terms = []
        with autocast_off(x.device):
            queries, keys = (None if part is None else at_least_float32(part) for part in (query, key))
            if "content" in self.terms:
                assert queries is not None and keys is not None
                scaled = queries if self.relative_query is None else queries * self.scale
                terms.append(precise_logits(scaled, keys))
            if self.relative_query is not None:
                terms.append(torch.einsum("mhid,hdij->mhij", queries, self.relative_query[:, :, self.index]))
            if self.relative_key is not None:
                terms.append(torch.einsum("mhjd,hdij->mhij", keys, self.relative_key[:, :, self.index]))
            if "bias" in self.terms:
                terms.append(self._biases()[:, self.index].unsqueeze(0))
            scores = at_least_float32(terms[0])
            for term in terms[1:]:
                scores += term  # a product, which nothing else needs
            weights = self._normalized(scores, None if inside is None else inside[:, None, None], self.index)
        if self.recording:
            self._record_windows(weights, x, before)
        factors = weights.to(values.dtype).expand(values.shape[0], -1, -1, -1)
        mixed = products(factors, values).transpose(1, 2).flatten(2)  # (M, N, C_out)
        if self.stride == 1 and inside is None:
            mixed = F.linear(mixed, self.out.weight.flatten(1), self.out.bias)
            return merge_windows(mixed, x, self.kernel_size, before)
        merged = every_nth(merge_windows(mixed, x, self.kernel_size, before), self.stride)
        return in_format_of(x, self.out(merged))

    def _normalized(self, scores: Tensor, inside: Tensor | None, offsets: Tensor | slice) -> Tensor:
        """Weights of scores whose last axis are cells, some `inside` the map, at the `offsets` of the tables."""
        if inside is None:  # all are
            if self.normalization == "softmax":
                return scores.softmax(-1)
            inside = torch.ones_like(scores[:1, :1, :1], dtype=torch.bool)
        if self.normalization == "softmax":
            return torch.where(inside, scores, -torch.inf).softmax(-1)
        weights = torch.where(inside, scores, 0.0)
        if self.normalization == "none":
            return weights
        count = inside.sum(-1, keepdim=True)
        centred = torch.where(inside, scores - weights.sum(-1, keepdim=True) / count, 0.0)
        variance = centred.square().sum(-1, keepdim=True) / count
        gain, offset = (table.unflatten(0, (self.heads, -1))[:, offsets] for table in (self.gain, self.offset))
        return torch.where(inside, centred * (variance + _EPSILON).rsqrt() * gain + offset, 0.0)

    def _by_head(self, projected: Tensor) -> Tensor:
        """A map (B, C_out, H, W) as (B, H, W, heads, D)."""
        return projected.permute(0, 2, 3, 1).unflatten(3, (self.heads, -1))

    def _tokens(self, x: Tensor, before: int) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Queries, keys and values of a map (B, C_in, H, W) as the tokens of its windows, (M, heads, N, D).

        Windows are cut once, and one product makes all three: of the windows where they fill the map, otherwise of the
        map, which has fewer cells. Queries come scaled where they have one use only.
        """
        layers = [layer for layer in (self.query, self.key, self.value) if layer is not None]
        weights = [layer.weight.flatten(1) for layer in layers]
        biases = [layer.bias for layer in layers if layer.bias is not None]
        if self.query is not None and self.relative_query is None:
            weights[0], biases[:1] = weights[0] * self.scale, [bias * self.scale for bias in biases[:1]]
        weight, bias = torch.cat(weights), torch.cat(biases) if biases else None
        if fills_windows(x, self.kernel_size, before):
            projected = F.linear(split_windows(x, self.kernel_size, before), weight, bias)
        else:
            projected = split_windows(F.conv2d(x, weight[:, :, None, None], bias), self.kernel_size, before)
        by_head = projected.unflatten(2, (len(layers), self.heads, -1)).permute(2, 0, 3, 1, 4).contiguous()
        found = list(by_head.unbind(0))
        values = found.pop()
        key = None if self.key is None else found.pop()
        return None if self.query is None else found.pop(), key, values

    def _offsets(self) -> Tensor:
        """Number of the offset of every key (last axis) from every query of a window, in row-major order."""
        k = self.kernel_size
        rows, columns = torch.arange(k * k) // k, torch.arange(k * k) % k
        down, across = (axis - axis.unsqueeze(1) + k - 1 for axis in (rows, columns))
        return down * (2 * k - 1) + across  # (N, N)

    def _record_windows(self, weights: Tensor, x: Tensor, before: int) -> None:
        """Notes the weights (M, heads, N, N) of windows down as those of the queries of a map (B, C, H, W)."""
        k, count = self.kernel_size, len(split_windows(x[:, :1], self.kernel_size, before))
        every = weights.expand(count, self.heads, -1, -1).transpose(1, 2).flatten(2)  # (M, N, heads N)
        by_query = merge_windows(every, x, k, before).unflatten(1, (self.heads, k, k))
        rows, columns = (
            ((torch.arange(size, device=x.device) + before) // k * k - before)[:: self.stride, None]
            + torch.arange(k, device=x.device)
            for size in x.shape[2:]
        )
        strided = by_query[..., :: self.stride, :: self.stride]  # (B, heads, k, k, H', W')
        self.record("key", strided.permute(0, 1, 4, 5, 2, 3), rows, columns)
