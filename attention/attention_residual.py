"""Attention residual of LaViT (Zhang et al., CVPR 2024, arXiv 2406.00427): scores handed from stage to stage."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import check_at_least, check_choice
from attention.functional.logits import at_least_float32, autocast_off
from attention.lavit import check_scores

Pooling = Literal["blocks", "separable", "literal"]


class AttentionResidual(nn.Module):
    """Scores of a stage's last layer, pooled for the first layer of the next stage, which has half its sides.

        A_0 = gamma * W_h DWConv(P A P^T)       (M, heads, N, N) -> (M, out_heads, N', N'),   N' = ceil(window / 2)^2

    arXiv 2406.00427: a depthwise convolution over the N x N image of each head, a 1 x 1 convolution that mixes heads,
    and LayerScale. The paper's kernel of 2 with stride 2 would give N / 2 tokens, and neighbours in row-major order are
    horizontal neighbours only, but merging 2 x 2 patches leaves N / 4 (assumption A9). So P first brings the tokens in
    the order of 2 x 2 blocks, in a block left to right and top to bottom (2 dy + dx), and `blocks` pools each 4 x 4
    cell (query dy, dx and key dy, dx) with one kernel of 4 and stride 4 per head. `separable` pools queries, then keys,
    with a 2 x 2 kernel each. `literal` is the paper's kernel of 2 with stride 2 on the permuted image, two times with
    weights of their own. A window of odd side is padded at the bottom and right with scores of zero; as the next
    stage's windows then cover window + 1 cells, that fits maps of a single window only.

    The paper leaves open whether the convolutions have biases (assumption A10). Constants leave the softmax of the next
    layer unchanged, but not the transforms of less attention, to which that layer hands its scores; `bias` adds one
    after the pooling and one after the mixture, both starting at zero. Kernels start as the mean, the head mixture
    takes each new head from the old one at the same part of the list (equal numbers: the identity), gamma starts at
    `layer_scale`. All of it stays in float32 under autocast.

    Parameters: 16 heads + heads out_heads + out_heads, `separable` and `literal` 8 heads instead of 16, `bias` heads +
    out_heads more. Cost: M N^2 (heads + heads out_heads / 16) multiply-accumulates, a quarter of the first term more
    with `separable` and `literal`; memory one copy of the scores.

    Place: between two stages with windows of `window` and window / 2 (the paper's 14 and 7), into the residual argument
    of the next stage's first `VanillaAttention`.

    Args:
        heads: Number of heads of the stage before, at least 1.
        out_heads: Number of heads of the next stage, at least 1.
        window: Side of the windows of the stage before in cells, at least 1.
        pooling: `blocks` (default), `separable` or `literal`.
        layer_scale: Start of gamma; 0 starts without a residual. CaiT, where LayerScale is from, has 0.1 to 1e-5.
        bias: Whether pooling and mixture have biases.
    """

    def __init__(
        self,
        heads: int,
        out_heads: int,
        window: int,
        pooling: Pooling = "blocks",
        layer_scale: float = 0.1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        check_at_least(1, heads=heads, out_heads=out_heads, window=window)
        check_choice("pooling", pooling, get_args(Pooling))
        self.heads = heads
        self.window = window
        self.pooling: Pooling = pooling
        sides = (4,) if pooling == "blocks" else (2, 2)
        self.pool = nn.ParameterList(nn.Parameter(torch.full((heads, 1, k, k), 1 / k**2)) for k in sides)
        self.mix = nn.Parameter(torch.zeros(out_heads, heads))
        with torch.no_grad():
            self.mix[torch.arange(out_heads), torch.arange(out_heads) * heads // out_heads] = 1.0
        self.gamma = nn.Parameter(torch.full((1, out_heads, 1, 1), layer_scale))
        self.pool_bias = nn.Parameter(torch.zeros(heads)) if bias else None
        self.mix_bias = nn.Parameter(torch.zeros(out_heads)) if bias else None

    def forward(self, scores: Tensor) -> Tensor:
        """Pools scores (M, heads, N, N) into a residual (M, out_heads, N', N')."""
        check_scores(scores, self.heads, self.window)
        half = -(-self.window // 2)
        with autocast_off(scores.device):
            scores = at_least_float32(scores)
            pool = [at_least_float32(kernel) for kernel in self.pool]
            split = scores.unflatten(3, (self.window, self.window)).unflatten(2, (self.window, self.window))
            odd = self.window % 2
            split = F.pad(split, (0, odd) * 4)
            for axis in (5, 4, 3, 2):
                split = split.unflatten(axis, (half, 2))  # (M, heads, Y, 2, X, 2, y, 2, x, 2)
            split = split.permute(0, 1, 2, 4, 3, 5, 6, 8, 7, 9)  # blocks before the cells in them, in both N
            if self.pooling == "separable":
                queries, keys = (kernel.flatten(1) for kernel in pool)  # (heads, 4), cells in the order 2 dy + dx
                blocks = split.flatten(8).flatten(6, 7).flatten(4, 5).flatten(2, 3)  # (M, heads, N', 4, N', 4)
                pooled = torch.einsum("mhqakb,ha,hb->mhqk", blocks, queries, keys)
            else:
                pooled = split.flatten(6).flatten(2, 5)  # the permuted image (M, heads, N, N)
                for kernel in pool:
                    pooled = F.conv2d(pooled, kernel, stride=kernel.shape[2], groups=self.heads)
            if self.pool_bias is not None:
                pooled = pooled + at_least_float32(self.pool_bias)[:, None, None]
            mixed = F.conv2d(pooled, at_least_float32(self.mix)[:, :, None, None])
            if self.mix_bias is not None:
                mixed = mixed + at_least_float32(self.mix_bias)[:, None, None]
            return mixed * at_least_float32(self.gamma)
