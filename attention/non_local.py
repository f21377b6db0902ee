"""Non-local block, embedded Gaussian (Wang et al., CVPR 2018, arXiv 1711.07971)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention.base import Refine, bottleneck_channels
from attention.functional.layout import in_format_of
from attention.functional.logits import precise_logits


class NonLocal(Refine):
    """Every position reads from all positions, and what it reads is added to it.

        y_i = x_i + W_z sum_j softmax_j(theta_i . phi_j) g_j + b_z                              (B, C, H, W)
        theta = W_t x + b_t,   phi = W_p x + b_p,   g = W_g x + b_g                             (B, m, H, W)

    arXiv 1711.07971, the embedded Gaussian of section 3.2 in the block of section 3.3, m = floor(C / reduction). The
    paper does not scale the logits; `scale` divides them by sqrt(m), as MMSegmentation's head does (timm divides by
    sqrt(C)). `subsample` takes phi and g from maxima over 2 x 2 cells; at odd sizes the last row and column form blocks
    of their own, where other code drops them (assumption A14). `norm` puts a batch normalisation behind W_z.

    W_z and b_z start at zero (with `norm` its gain and offset instead), so that a block starts as the identity.
    Attention runs in PyTorch's fused kernels, which never hold the (H W)^2 weights; only recording computes them, and
    notes keys of 2 x 2 cells down at their top left cell. b_p cancels in the softmax: its gradient is zero. Compiles
    and exports for any size.

    Parameters: 4 C m + 3 m + C, with `norm` 2 C more. Cost: H W (4 C m + 2 m H W) multiply-accumulates, with
    `subsample` a quarter of the second term; memory linear in H W.

    Place: once or twice behind late residual blocks (the paper: res3 and res4), or in a segmentation head.

    Args:
        channels: Number of channels C of the map, at least 1.
        reduction: Divisor r of the inner width m = floor(C / r), from 1 to C. The paper takes 2.
        scale: Whether the logits are divided by sqrt(m).
        subsample: Whether keys and values are maxima over 2 x 2 cells.
        norm: Whether a batch normalisation follows the output projection.
    """

    starts_as_identity = True

    def __init__(
        self, channels: int, reduction: int = 2, scale: bool = False, subsample: bool = False, norm: bool = False
    ) -> None:
        super().__init__(channels)
        width = bottleneck_channels(channels, reduction)
        self.scale = width**-0.5 if scale else 1.0
        self.subsample = subsample
        self.theta = nn.Conv2d(channels, width, 1)
        self.phi = nn.Conv2d(channels, width, 1)
        self.g = nn.Conv2d(channels, width, 1)
        self.out = nn.Conv2d(width, channels, 1)
        self.norm = nn.BatchNorm2d(channels) if norm else nn.Identity()
        for parameter in (self.norm if norm else self.out).parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Adds to every position of `x` (B, C, H, W) what it reads from all others."""
        height, width = x.shape[2:]
        queries = _tokens(self.theta(x))
        phi, g = self.phi(x), self.g(x)
        if self.subsample:
            phi, g = _halved(phi), _halved(g)
        keys, values = _tokens(phi), _tokens(g)
        read = F.scaled_dot_product_attention(queries, keys, values, scale=self.scale)  # (B, 1, H W, m)
        if self.recording:
            self._record(queries, keys, x, phi)
        read = read.squeeze(1).transpose(1, 2).unflatten(2, (height, width))
        return x + self.norm(self.out(in_format_of(x, read)))

    def _record(self, queries: Tensor, keys: Tensor, x: Tensor, phi: Tensor) -> None:
        """Keys of 2 x 2 cells are noted down at their top left cell."""
        weights = torch.softmax(precise_logits(queries, keys) * self.scale, -1)
        step = 2 if self.subsample else 1
        rows, columns = (
            (torch.arange(keys_there, device=x.device) * step).expand(queries_there, keys_there)
            for queries_there, keys_there in zip(x.shape[2:], phi.shape[2:], strict=True)
        )
        self.record("key", weights.unflatten(3, phi.shape[2:]).unflatten(2, x.shape[2:]), rows, columns)


def _tokens(x: Tensor) -> Tensor:
    """(B, m, H, W) -> (B, 1, H W, m); the fused kernels want the channels side by side."""
    return x.flatten(2).transpose(1, 2).unsqueeze(1).contiguous()


def _halved(x: Tensor) -> Tensor:
    """Maxima over 2 x 2 cells, of a half-filled block over what is inside."""
    padding = (0, -x.shape[3] % 2, 0, -x.shape[2] % 2)
    return F.max_pool2d(F.pad(x, padding, value=float("-inf")), 2)
