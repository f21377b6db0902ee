"""LKA, large kernel attention (Guo et al., Computational Visual Media 2023, arXiv 2202.09741)."""

from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Refine, check_at_least
from attention.pooling import gated


class LargeKernelAttention(Refine):
    """Cells weighted by what a large kernel, in three cheap parts, makes of their neighbourhood.

        a = conv_{1x1}(dw_{K/d x K/d, dilated by d}(dw_{2d-1 x 2d-1} x))                (B, C, H, W)
        y = x * a               `projections`: y = x + W2 (z * a(z)),   z = gelu(W1 x)

    arXiv 2202.09741, equations 1 and 2: a kernel of K cells a side split into a depth-wise one of 2 d - 1 cells, a
    depth-wise one of ceil(K / d) cells d cells apart, and a 1x1 convolution; with K = 21 and d = 3 they have 5 and 7
    cells. The weights a are not bounded by a sigmoid. Projections around it are those of VAN's blocks (figure 3), which
    also have a norm in front and scale the residual, as a host may. All convolutions have biases and see zeros beyond
    the border.

    Convolutions start normally distributed with variance 2 / (k^2 C_out / groups), biases at zero, as in the authors'
    code. It compiles and exports: convolutions and a product.

    Parameters: C^2 + C ((2 d - 1)^2 + ceil(K / d)^2 + 3), with projections 2 C^2 + 2 C more. Cost: H W (C^2 +
    C ((2 d - 1)^2 + ceil(K / d)^2)) multiply-accumulates and four passes over the map; memory of four maps.

    Place: on the residual branch of a block; with projections a block's whole spatial part.

    Args:
        channels: Number of channels C of the map, at least 1.
        kernel_size: Side K of the kernel that is split, in cells, with ceil(K / d) odd. The paper takes 21.
        dilation: Distance d between the cells of the second part, at least 1. The paper takes 3.
        projections: Whether a 1x1 convolution and GELU stand before, a 1x1 convolution behind, and the map is added.
    """

    def __init__(self, channels: int, kernel_size: int = 21, dilation: int = 3, projections: bool = False) -> None:
        super().__init__(channels)
        check_at_least(1, kernel_size=kernel_size, dilation=dilation)
        near, far = 2 * dilation - 1, -(-kernel_size // dilation)
        if far % 2 == 0:
            raise ValueError(
                f"kernel_size={kernel_size} makes {far} cells at dilation={dilation}, which have no centre; "
                f"give {(far - 1) * dilation} or {(far + 1) * dilation}"
            )
        self.near = nn.Conv2d(channels, channels, near, padding=near // 2, groups=channels)
        self.far = nn.Conv2d(channels, channels, far, padding=far // 2 * dilation, dilation=dilation, groups=channels)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.before = nn.Conv2d(channels, channels, 1) if projections else None
        self.behind = nn.Conv2d(channels, channels, 1) if projections else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=(2 * module.groups / module.weight[:, 0].numel()) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Weights every cell of `x` (B, C, H, W), or adds the projection of such a product."""
        if self.before is None or self.behind is None:
            return self._attend(x)
        projected: Tensor = self.behind(self._attend(F.gelu(self.before(x))))
        return x + projected.to(x.dtype)

    def _attend(self, x: Tensor) -> Tensor:
        weights: Tensor = self.mix(self.far(self.near(x)))
        if self.recording:
            self.record("cell", weights)
        return gated(x, weights)
