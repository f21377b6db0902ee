"""Progressive attention (Seo et al., BMVC 2018, arXiv 1606.02393)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Refine, bottleneck_channels, check_odd
from attention.pooling import gated, global_mean


class ProgressiveAttention(Refine):
    """Positions weighted by a gate from their neighbourhood and a query, layer after layer.

        q = mean_{H,W} x                                        (B, C, 1, 1)
        s = w_2 relu(conv_{k x k}(x) + W_q q + b_1) + b_2       (B, 1, H, W), m hidden channels
        y = x * sigmoid(s)

    arXiv 1606.02393: in all layers but the last, which is pooled, features are multiplied by a sigmoid of an attention
    function of their local context and the query. The query there is a question about the image; as the baseline of
    "Learn to pay attention" (arXiv 1804.02391) has no question, it is the mean of the map here. The attention function
    is a perceptron with one hidden layer, whose width and initialisation are ours (assumption A52).

    w_2 and b_2 start at zero, so that every position is first weighted by exactly one half. The convolution sees zeros
    beyond the border. Compiles and exports: a mean, convolutions and a product.

    Parameters: m (C (k^2 + 1) + 2) + 1 with m = floor(C / reduction). Cost: m H W (C k^2 + 1) + m C multiply-
    accumulates, two passes over the map and one for the product.

    Place: behind several stages, or on the residual branch of their blocks before the addition.

    Args:
        channels: Number of channels C of the map, at least 1.
        reduction: Divisor r of the hidden width m = floor(C / r), from 1 to C.
        kernel_size: Side k of the local context in cells, odd. The paper takes 3; 1 is its form without context.
    """

    def __init__(self, channels: int, reduction: int = 8, kernel_size: int = 3) -> None:
        super().__init__(channels)
        check_odd(kernel_size=kernel_size)
        width = bottleneck_channels(channels, reduction)
        self.context = nn.Conv2d(channels, width, kernel_size, padding=kernel_size // 2)
        self.query = nn.Conv2d(channels, width, 1, bias=False)
        self.score = nn.Conv2d(width, 1, 1)
        for parameter in self.score.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Weights the positions of `x` (B, C, H, W)."""
        hidden = F.relu(self.context(x) + self.query(global_mean(x)))
        gate = torch.sigmoid(self.score(hidden))
        if self.recording:
            self.record("position", gate)
        return gated(x, gate)
