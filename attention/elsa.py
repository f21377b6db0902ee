"""ELSA, enhanced local self-attention (Zhou et al., arXiv 2112.12786; IJCV 2023)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Mixer, check_at_least, check_choice, check_divides, check_odd
from attention.functional.layout import channels_last, in_format_of
from attention.functional.logits import autocast_off
from attention.functional.neighbourhood import inside_map, modulated_sum, neighbourhood_rows, neighbourhood_sum

Border = Literal["zero", "mask"]


class ELSA(Mixer):
    """Every position sums its k x k neighbours with weights made from the product of query and key alone.

        q, k, v = W x + b                                                      (B, C_qk | C_qk | C_out, H, W)
        h = softmax_t(W_2 gelu(conv_{k x k}(scale q * k) + b_1) + b_2)         (B, heads, k k, H', W')
        y_c[p] = sum_t (mul_c[t]^lambda h[t, p] + gamma add_c[t]) v_c[p + t]   (B, C_out, H', W')
        out = W_o y + b_o

    arXiv 2112.12786: Hadamard attention (the second line) and ghost head (the third), in the form of the authors' code,
    whose one two-layer network stands for the three terms of the paper's equation, and whose heads own contiguous
    channels. Defaults are those of the released ELSA-Swin-S and -B; ELSA-Swin-T has `group_width` 4.

    With `border="zero"`, which released weights need, cells outside the map stay in the softmax and have value zero;
    `mask` leaves them out.

    Nothing of size C k^2 H W is stored: with lambda 0 the ghost head is a depth-wise convolution, and the rest a
    neighbourhood sum shared by the channels of a head. Exported models carry k^2 shifted copies instead.

    Parameters: C_in (2 C_qk + C_out) + C_qk group_width k^2 + C_qk (heads k^2 + 1) + heads k^2 + C_out k^2 + C_out^2 +
    C_out, with a bias 2 C_qk + C_out more. Cost: H W C_in (2 C_qk + C_out) + H' W' (C_qk k^2 (group_width + heads) +
    2 C_out k^2 + C_out^2) multiply-accumulates; linear in H W.

    Place: instead of window attention in Swin's first three stages, or of a spatial convolution.

    Args:
        in_channels: Number of channels C_in of the input map, at least 1.
        out_channels: Number of channels C_out of the output map, a multiple of `heads`.
        stride: Subsampling factor of the output map in both directions, at least 1.
        heads: Number of heads, each with C_out / heads channels that share the weights h.
        kernel_size: Side k of the neighbourhood in cells, odd. Released networks take 7.
        group_width: Channels per group of the k x k convolution on the product of query and key; divides `qk_channels`.
        qk_channels: Width C_qk of queries and keys; none gives two thirds of C_in, 2 floor(C_in / 3), rounded up to a
            multiple of `group_width`.
        mul_power: Exponent lambda of the multiplicative ghost kernels, an integer of at least 0; 0 (released networks)
            means that there are none.
        add_scale: Factor gamma of the additive ghost kernels; 0 means that there are none.
        dilation: Distance between the cells of a neighbourhood, at least 1.
        scale: Factor of the product of query and key; released networks take 1.
        bias: Whether the projection to query, key and value has a bias.
        border: `zero` counts cells outside the map as neighbours with value zero (released weights), `mask` does not.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        heads: int = 8,
        kernel_size: int = 7,
        group_width: int = 8,
        qk_channels: int | None = None,
        mul_power: int = 0,
        add_scale: float = 1.0,
        dilation: int = 1,
        scale: float = 1.0,
        bias: bool = True,
        border: Border = "zero",
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        check_at_least(1, heads=heads, group_width=group_width, dilation=dilation)
        check_at_least(0, mul_power=mul_power)
        if mul_power % 1:
            raise ValueError(f"mul_power={mul_power} has no value for negative kernels; give an integer such as 1")
        check_odd(kernel_size=kernel_size)
        check_divides("out_channels", out_channels, "heads", heads)
        check_choice("border", border, get_args(Border))
        if qk_channels is None:
            qk_channels = -(-max(1, 2 * (in_channels // 3)) // group_width) * group_width
        check_divides("qk_channels", qk_channels, "group_width", group_width)
        self.heads, self.kernel_size, self.dilation = heads, kernel_size, dilation
        self.qk_channels, self.mul_power, self.add_scale, self.scale = qk_channels, mul_power, add_scale, scale
        self.border: Border = border
        self.pre_proj = nn.Conv2d(in_channels, 2 * qk_channels + out_channels, 1, bias=bias)
        self.attn = nn.Sequential(
            nn.Conv2d(
                qk_channels,
                qk_channels,
                kernel_size,
                stride,
                padding=dilation * (kernel_size // 2),
                dilation=dilation,
                groups=qk_channels // group_width,
            ),
            nn.GELU(),
            nn.Conv2d(qk_channels, heads * kernel_size**2, 1),
        )
        self.post_proj = nn.Linear(out_channels, out_channels)
        nn.init.trunc_normal_(self.post_proj.weight, std=0.02)
        nn.init.zeros_(self.post_proj.bias)
        kernels = (out_channels, kernel_size, kernel_size)
        add = nn.init.trunc_normal_(torch.empty(1, *kernels), std=0.02)
        mul = torch.randn(1, *kernels)
        if mul_power and add_scale:
            self.ghost_head: nn.Parameter | None = nn.Parameter(torch.cat([mul, add]))
        elif mul_power or add_scale:
            self.ghost_head = nn.Parameter(mul if mul_power else add)
        else:
            self.register_parameter("ghost_head", None)
        self.register_load_state_dict_pre_hook(_with_four_dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes `x` (B, C_in, H, W) into (B, C_out, ceil(H / stride), ceil(W / stride))."""
        projected = self.pre_proj(channels_last(x))
        query, key, value = projected.split([self.qk_channels, self.qk_channels, self.out_channels], 1)
        weights = self._weights(query, key)
        mixed = self._mix(weights, value)
        return in_format_of(x, self.post_proj(mixed).permute(0, 3, 1, 2))

    def _weights(self, query: Tensor, key: Tensor) -> Tensor:
        """Weight of every cell for every query, (B, H', W', heads, k k), from maps (B, C_qk, H, W)."""
        scores = self._scores(query, key).permute(0, 2, 3, 1).unflatten(3, (self.heads, -1))
        rows, columns = (
            neighbourhood_rows(queries, self.kernel_size, self.stride, self.dilation, key.device)
            for queries in scores.shape[1:3]
        )
        if self.border == "mask":
            inside = inside_map(rows, key.shape[2])[:, None, :, None] & inside_map(columns, key.shape[3])[:, None]
            scores = scores.masked_fill(~inside.flatten(2).unsqueeze(2), -torch.inf)  # (H', W', 1, k k)
        weights = torch.softmax(scores, -1, dtype=torch.float32 if scores.dtype.itemsize < 4 else scores.dtype)
        if self.recording:
            side = (self.kernel_size, self.kernel_size)
            self.record("key", weights.permute(0, 3, 1, 2, 4).unflatten(-1, side), rows, columns)
        return weights

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        """What the two layers make of the product of query and key (B, C_qk, H, W), (B, heads k k, H', W').

        Nothing scales the product, which leaves float16's range where its factors are 256 or more: there it is computed
        in float32, and so are the layers, whatever they are kept in. bfloat16 has the range.
        """
        if query.dtype != torch.float16:
            scores: Tensor = self.attn(query * key * self.scale)
            return scores
        with autocast_off(query.device):
            product = query.float() * key.float() * self.scale
            if self.post_proj.weight.dtype != torch.float16:
                return self.attn(product)
            widened = {name: parameter.float() for name, parameter in self.attn.named_parameters()}
            return torch.func.functional_call(self.attn, widened, (product,))

    def _mix(self, weights: Tensor, value: Tensor) -> Tensor:
        """Sum of the values (B, C_out, H, W) around every query by its weights and the ghost kernels, channels last."""
        mul, add = self._ghost_kernels()
        values = value.permute(0, 2, 3, 1).unflatten(3, (self.heads, -1))
        if mul is None:
            mixed = neighbourhood_sum(weights, values, self.stride, self.dilation)
        else:
            kernels = mul.flatten(1).unflatten(0, (self.heads, -1))
            mixed = modulated_sum(weights, values, kernels, self.stride, self.dilation)
        mixed = mixed.flatten(3)
        if add is None:
            return mixed
        padding = self.dilation * (self.kernel_size // 2)
        static = F.conv2d(value, add, None, self.stride, padding, self.dilation, len(add))
        return mixed + static.permute(0, 2, 3, 1)

    def _ghost_kernels(self) -> tuple[Tensor | None, Tensor | None]:
        """Multiplicative kernels (C, k, k) and additive kernels (C, 1, k, k), where there are such."""
        mul = add = None
        if self.ghost_head is not None:
            kernels = self.ghost_head  # (1 or 2, C, k, k)
            if self.mul_power:
                mul = kernels[0] ** self.mul_power
            if self.add_scale:
                add = (self.add_scale * kernels[-1]).unsqueeze(1)
        return mul, add


def _with_four_dimensions(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Accepts ghost kernels (2, 1, C, k, k), as the authors' code has them where there are both kinds.

    Modules with parameters of five dimensions cannot be brought into the memory format channels_last.
    """
    name = f"{prefix}ghost_head"
    if name in state and state[name].dim() == 5:
        state[name] = state[name].flatten(0, 1)
