"""Double attention of A2-Nets (Chen et al., NeurIPS 2018, arXiv 1810.11579)."""

import torch
from torch import Tensor, nn

from attention.base import Refine, check_at_least
from attention.functional.layout import in_format_of
from attention.functional.logits import at_least_float32


class DoubleAttention(Refine):
    """Global descriptors gathered by attention over positions, and handed out to every position by attention over them.

        g_n = sum_j softmax_j(B x)_nj (A x)_j                           (B, c_m, c_n): c_n descriptors
        z_i = sum_n softmax_n(V x)_ni g_n                               (B, c_m, H, W)
        y = x + W z                                                     (B, C, H, W)

    arXiv 1810.11579, equations 3 to 6: A gives c_m channels, B and V give c_n maps each, W brings c_m channels back
    to C; all four are 1 x 1 convolutions with biases. Widely copied code takes the softmax of V over positions, too.
    Half of C for c_m and c_n is our reading: two such blocks in stage 2 and three in stage 3 make ResNet-50 one of 32.9
    M parameters, near the stated 33.0 M. W and its bias start at zero, so that a block starts as the identity
    (assumption A47).

    Nothing grows with the square of H W, but for one of the two maps that are recorded: the weights of all positions
    for every position, sum_n softmax_n(V x)_ni softmax_j(B x)_nj. Both softmaxes are in float32
    under autocast. The bias of B adds the same to all positions of a map, so its gradient is zero. Compiles and
    exports for any size.

    Parameters: 2 C c_m + 2 C c_n + c_m + 2 c_n + C. Cost: H W (2 C c_m + 2 C c_n + 2 c_m c_n) multiply-accumulates;
    memory linear in H W.

    Place: behind a few blocks of the middle stages.

    Args:
        channels: Number of channels C of the map, at least 1.
        c_m: Channels of a descriptor, at least 1. Default: half of C.
        c_n: Number of descriptors, at least 1. Default: half of C.
    """

    starts_as_identity = True

    def __init__(self, channels: int, c_m: int | None = None, c_n: int | None = None) -> None:
        super().__init__(channels)
        c_m, c_n = (max(1, channels // 2) if given is None else given for given in (c_m, c_n))
        check_at_least(1, c_m=c_m, c_n=c_n)
        self.feature = nn.Conv2d(channels, c_m, 1)
        self.gather = nn.Conv2d(channels, c_n, 1)
        self.distribute = nn.Conv2d(channels, c_n, 1)
        self.out = nn.Conv2d(c_m, channels, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Adds to every position of `x` (B, C, H, W) its share of what the whole map has."""
        features = self.feature(x).flatten(2)  # (B, c_m, H W)
        gathering = torch.softmax(at_least_float32(self.gather(x).flatten(2)), 2)
        distributing = torch.softmax(at_least_float32(self.distribute(x).flatten(2)), 1)  # (B, c_n, H W)
        if self.recording:
            self._record(gathering, distributing, x)
        descriptors = torch.bmm(features, gathering.to(features.dtype).transpose(1, 2))  # (B, c_m, c_n)
        read = torch.bmm(descriptors, distributing.to(descriptors.dtype)).unflatten(2, x.shape[2:])
        return x + self.out(in_format_of(x, read))

    def _record(self, gathering: Tensor, distributing: Tensor, x: Tensor) -> None:
        """Descriptors are heads of one query that sees the whole map; their shares make a mixture of all positions."""
        rows, columns = (torch.arange(size, device=x.device).unsqueeze(0) for size in x.shape[2:])
        self.record("gather", gathering[:, :, None, None].unflatten(4, x.shape[2:]), rows, columns)
        weights = torch.bmm(distributing.transpose(1, 2), gathering).unsqueeze(1)  # (B, 1, H W, H W)
        tables = (table.expand(size, -1) for table, size in zip((rows, columns), x.shape[2:], strict=True))
        self.record("key", weights.unflatten(3, x.shape[2:]).unflatten(2, x.shape[2:]), *tables)
