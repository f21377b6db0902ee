"""Sums and inner products over the k x k neighbourhood of every position, for sliding local attention.

Read `shifts.py` first: the plain form, one shifted copy of the map per cell. It is what is exported and what runs under
`torch.func`, but it stores k^2 maps, and so the other files exist:

    operators.py    what callers use: the functions, their gradients, and which form computes them
    blocks.py       CPU: matrix products of blocks of queries and the windows that they see
    launch.py       CUDA, not measured: starts the kernels of triton_kernels.py, or takes the plain form
    modulated.py    the sum with a static kernel per channel, no matrix product; a few rows at a time
"""

from attention.functional.neighbourhood.modulated import modulated_sum
from attention.functional.neighbourhood.operators import (
    inside_map,
    neighbourhood_products,
    neighbourhood_rows,
    neighbourhood_sum,
)

__all__ = ["inside_map", "modulated_sum", "neighbourhood_products", "neighbourhood_rows", "neighbourhood_sum"]
