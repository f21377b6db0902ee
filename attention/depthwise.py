"""Depth-wise convolution (Howard et al., MobileNets, arXiv 1704.04861) as a mixer among the others."""

from attention.local_filter import LocalFilter


class DepthwiseConvolution(LocalFilter):
    """A depth-wise convolution between two projections: a filter that sees the offset alone, one for every channel.

        y = W_o conv_{k x k}(W_v x + b_v) + b_o     the convolution by channel, without a bias   (B, C_out, H', W')

    The static end of arXiv 2112.12786's comparison: `LocalFilter` with the term `bias`, a head a channel and no
    normalisation.

    Parameters: C_in C_out + C_out^2 + C_out (k^2 + 2). Cost: H W C_in C_out + H' W' (k^2 C_out + C_out^2)
    multiply-accumulates.

    Place: instead of window attention in Swin, or of a spatial convolution.

    Args:
        in_channels: Number of channels C_in of the input map, at least 1.
        out_channels: Number of channels C_out of the output map, at least 1.
        stride: Subsampling factor of the output map in both directions, at least 1.
        kernel_size: Side k of the kernels in cells, odd.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, kernel_size: int = 7) -> None:
        super().__init__(in_channels, out_channels, stride, kernel_size, 1, ("bias",), "none")
