"""SimAM, attention without parameters (Yang et al., ICML 2021)."""

from torch import Tensor

from attention.base import Refine
from attention.functional.logits import at_least_float32
from attention.pooling import gated, global_mean, total


class SimAM(Refine):
    """Cells weighted by how far they stand out of their channel, by the energy of a linear separation in closed form.

        m_c = mean_{H,W} x_c,   v_c = sum_{H,W} (x_c - m_c)^2 / n,   n = H W - 1
        1 / e_cij = (x_cij - m_c)^2 / (4 (v_c + lambda)) + 1 / 2
        y = x * sigmoid(1 / e)                                          (B, C, H, W)

    Yang et al., ICML 2021, equations 5 and 6. The equations divide the squares by H W, the paper's listing and its
    networks by H W - 1, which is taken here. A map of one cell has no variance: n is one there, the energy 1 / 2, and
    every channel is weighted by sigmoid(1 / 2) (assumption A37).

    Means, squares and the gate are computed in float32 where the map is in half precision. It compiles and exports:
    sums and point-wise functions.

    Parameters: none. Cost: four passes over the map; memory of three maps in training.

    Place: in residual blocks behind the 3x3 convolution, in the paper; any convolution will do.

    Args:
        channels: Number of channels C of the map, at least 1. Nothing depends on it.
        energy_lambda: Coefficient lambda of the squared weight in the energy, positive. The paper takes 1e-4.
    """

    def __init__(self, channels: int, energy_lambda: float = 1e-4) -> None:
        super().__init__(channels)
        if energy_lambda <= 0:
            raise ValueError(
                f"energy_lambda={energy_lambda} does not guard a division; give a positive number such as 1e-4"
            )
        self.energy_lambda = energy_lambda

    def forward(self, x: Tensor) -> Tensor:
        """Weights every cell of `x` (B, C, H, W)."""
        wide = at_least_float32(x)
        squares = (wide - global_mean(wide)).square()
        cells = x.shape[2] * x.shape[3]
        n = cells - 1 + 1 // cells  # one for a single cell; a branch would tie an exported program to one size
        variance = total(squares, 2, 3) / n
        energies = squares / (4 * (variance + self.energy_lambda))
        del squares, wide  # two maps at a time are enough
        weights = energies.add_(0.5).sigmoid_()
        if self.recording:
            self.record("cell", weights)
        return gated(x, weights)
