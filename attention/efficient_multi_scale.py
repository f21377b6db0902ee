"""EMA, efficient multi-scale attention (Ouyang et al., ICASSP 2023, arXiv 2305.13563)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Refine, check_at_least, check_divides
from attention.functional.logits import at_least_float32
from attention.pooling import mean


class EfficientMultiScaleAttention(Refine):
    """Positions of every group of channels weighted by two branches that read each other's averages.

        r, k = W1 [mean_W x; mean_H x] + b1                     (B, m, H) and (B, m, W) of each group, m = C / groups
        p = GN(x * sigmoid(r) * sigmoid(k)),  q = conv_{3x3} x  (B, m, H, W)
        g = sigmoid(softmax_m(mean_{H,W} p) . q + softmax_m(mean_{H,W} q) . p)          (B, 1, H, W)
        y = x * g                                               the same parameters for all groups

    arXiv 2305.13563, section 3.2 and figure 3; groups, and a normalisation that takes every channel for a group of its
    own, are those of the authors' code (assumption A40). So normalised, a channel has its norm's bias for an average:
    the first softmax reads the bias alone, whatever the image, and no average of p is taken here.

    Softmaxes are in float32 or better. It compiles and exports: means, convolutions, a normalisation and products.

    Parameters: 10 m^2 + 4 m. Cost: H W (9 m + 2) C + m (H + W) C multiply-accumulates and about ten passes over the
    map; memory of five maps in training.

    Place: behind the 3x3 convolution of a residual block, or at the end of its branch before the addition.

    Args:
        channels: Number of channels C of the map, at least 1.
        groups: Number of groups of channels, a divisor of C. The authors' code takes 32.
    """

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__(channels)
        check_at_least(1, groups=groups)
        check_divides("channels", channels, "groups", groups)
        width = channels // groups
        self.groups = groups
        self.conv1 = nn.Conv2d(width, width, 1)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.GroupNorm(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Weights the positions of every group of channels of `x` (B, C, H, W)."""
        height, width = x.shape[2:]
        grouped = x.unflatten(1, (self.groups, -1))  # (B, groups, m, H, W)
        group = grouped.flatten(0, 1)
        means = torch.cat([mean(group, 3), mean(group, 2).transpose(2, 3)], 2)
        of_rows, of_columns = self.conv1(means).split([height, width], 2)  # (B groups, m, H or W, 1)
        p = self.norm(group * torch.sigmoid(of_rows) * torch.sigmoid(of_columns.transpose(2, 3)))
        q = self.conv3(group)
        scores = _read(self.norm.bias.unsqueeze(0), q) + _read(mean(q, 2, 3).flatten(1), p)  # (B groups, H W)
        weights = torch.sigmoid(scores).view(-1, self.groups, 1, height, width)
        if self.recording:
            self.record("position", weights.expand_as(grouped).flatten(1, 2))
        return (grouped * weights.to(x.dtype)).flatten(1, 2)


def _read(logits: Tensor, values: Tensor) -> Tensor:
    """Average of the channels of `values` (N, m, H, W), weighted by the softmax of `logits` (N or 1, m): (N, H W)."""
    weights = F.softmax(at_least_float32(logits), 1).unsqueeze(1).expand(values.shape[0], -1, -1)
    return torch.matmul(weights.to(values.dtype), values.flatten(2)).squeeze(1)
