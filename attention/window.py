"""Window attention of Swin (Liu et al., ICCV 2021, arXiv 2103.14030) as a mixer among the others."""

from attention.local_filter import LocalFilter


class WindowAttention(LocalFilter):
    """Self-attention within windows of w x w cells that do not overlap, with a learned bias by offset.

        f(i, j) = softmax_j(q_i . k_j / sqrt(D) + b_{j-i})     j in the window of i, by head
        y_i = W_o sum_j f(i, j) v_j + b_o                      (B, C_out, H', W')

    Liu et al., Swin, arXiv 2103.14030, section 3.2: `LocalFilter` with the terms `content` and `bias` in windows. Cells
    that fill up the last windows are no keys, where Swin's own (`backbones.Swin` without a mixer) has zeros there.

    Parameters: C_in 3 C_out + C_out^2 + 4 C_out + heads (2 w - 1)^2. Cost: H W (3 C_in C_out + C_out^2 + 2 w^2 C_out)
    multiply-accumulates.

    Place: instead of a spatial convolution; in Swin it is what the host has itself.

    Args:
        in_channels: Number of channels C_in of the input map, at least 1.
        out_channels: Number of channels C_out of the output map, a multiple of `head_channels`.
        stride: Subsampling factor of the output map in both directions, at least 1.
        window: Side w of a window in cells.
        head_channels: Channels D of a head.
        shift: Distance that windows are shifted by, 0 to w - 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        window: int = 7,
        head_channels: int = 32,
        shift: int = 0,
    ) -> None:
        super().__init__(in_channels, out_channels, stride, window, head_channels, application="window", shift=shift)
