"""Means of cells and every n-th position: odd sizes, and the gradients of compiled programs."""

import pytest
import torch

from attention.functional.layout import cell_means, every_nth


def reference(x, stride):
    rows = [x[:, :, top : top + stride] for top in range(0, x.shape[2], stride)]
    cells = [[row[..., left : left + stride] for left in range(0, x.shape[3], stride)] for row in rows]
    return torch.stack([torch.stack([cell.mean((2, 3)) for cell in row], 2) for row in cells], 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 6), (6, 5), (8, 8)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_means_of_cells(stride, size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(cell_means(x, stride), reference(x, stride), rtol=1e-12, atol=1e-12)
    assert torch.equal(every_nth(x, stride), x[:, :, ::stride, ::stride])


@pytest.mark.parametrize("stride", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_compiled_gradients_at_the_border(stride):
    """With inductor: it computes avg_pool2d's gradients itself, and those of overhanging windows wrongly by default."""
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64, requires_grad=True)
    torch.compiler.reset()
    outs = cell_means(x, stride), torch.compile(cell_means)(x, stride)
    direction = torch.randn_like(outs[0])
    gradients = [torch.autograd.grad(out, x, direction)[0] for out in outs]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-12)
