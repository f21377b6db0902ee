"""GSoP, global second-order pooling (Gao et al., CVPR 2019, arXiv 1811.12006)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Refine, check_at_least
from attention.functional.logits import at_least_float32, autocast_off
from attention.pooling import gated


class SecondOrderPooling(Refine):
    """Channels weighted by a gate computed from the covariances of their mixtures over the map.

        z = relu(BN(W1 relu(x) + b1))                           (B, m, H, W)
        S = z z^T / (H W) - mean(z) mean(z)^T                   (B, m, m), z as m x H W
        r_i = U_i BN_i(S_i) + u_i                               4 numbers of each row S_i
        y = x * sigmoid(W2 r + b2)                              W1: (m, C), U_i: (4, m), W2: (C, 4 m)

    arXiv 1811.12006, section 3.2, channel-wise form: covariances say how channels vary together, where a mean says how
    strong they are. Norms, and the ReLU in front of the first convolution, are those of the authors' code, which in
    the first stage reads every second row and column only (assumption A41).

    Sums of products are in float32 or better; a mean of fifty deviations costs them four of seven digits. It compiles
    and exports: convolutions and products of matrices.

    Parameters: 5 C m + 4 m^2 + C + 9 m. Cost: H W (C m + m^2) + 4 m^2 + 4 C m multiply-accumulates, one pass over the
    map for the reduction and one for the product.

    Place: on the residual branch of a block behind its last norm, before the addition.

    Convolutions start normally distributed with variance 2 / (C_out k) for kernels of k cells, biases at PyTorch's
    defaults, as in the authors' code.

    Args:
        channels: Number of channels C of the map, at least 1.
        width: Number m of channels whose covariances are taken, at least 1. The paper takes 128.
    """

    def __init__(self, channels: int, width: int = 128) -> None:
        super().__init__(channels)
        check_at_least(1, width=width)
        self.reduce = nn.Conv2d(channels, width, 1)
        self.reduce_norm = nn.BatchNorm2d(width)
        self.row_norm = nn.BatchNorm2d(width)
        self.row = nn.Conv2d(width, 4 * width, (width, 1), groups=width)
        self.fc = nn.Conv2d(4 * width, channels, 1)
        for layer in (self.reduce, self.row, self.fc):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """Weights the channels of `x` (B, C, H, W)."""
        reduced = F.relu(self.reduce_norm(self.reduce(F.relu(x))), inplace=True)
        rows = self.row_norm(_covariance(reduced).unsqueeze(3))  # (B, m, m, 1): m rows for channels
        weights = torch.sigmoid(self.fc(self.row(rows)))
        if self.recording:
            self.record("channel", weights)
        return gated(x, weights)


def _covariance(x: Tensor) -> Tensor:
    """Covariances of the channels of `x` (B, m, H, W) over its positions, (B, m, m)."""
    with autocast_off(x.device):
        values = at_least_float32(x).flatten(2)
        means = values.mean(2, keepdim=True)
        squares = torch.bmm(values, values.transpose(1, 2)) / values.shape[2]
        covariance = squares - torch.bmm(means, means.transpose(1, 2))
    return covariance.to(x.dtype)
