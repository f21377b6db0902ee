"""Absolute positions of an attention's input, number by number."""

import math

import pytest
import torch

from attention.positions import InputPositions


def with_positions(kind, x):
    """What `InputPositions` does, one number at a time."""
    batch, channels, height, width = x.shape
    if kind == "sinusoidal":
        half = channels // 2
        table = torch.zeros(channels, height, width, dtype=x.dtype)
        for channel in range(channels):
            for i in range(height):
                for j in range(width):
                    place, t = (i, channel) if channel < half else (j, channel - half)
                    angle = place / 10000 ** ((t - t % 2) / half)
                    table[channel, i, j] = math.cos(angle) if t % 2 else math.sin(angle)
        return x + table
    if kind == "coord_conv":
        planes = torch.zeros(batch, 3, height, width, dtype=x.dtype)
        for i in range(height):
            for j in range(width):
                column = 2 * j / (width - 1) - 1 if width > 1 else 0.0
                row = 2 * i / (height - 1) - 1 if height > 1 else 0.0
                planes[:, :, i, j] = torch.tensor([column, row, math.hypot(column, row)], dtype=x.dtype)
        return torch.cat([x, planes], 1)
    return x


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (31, 40)])
@pytest.mark.parametrize("kind", ["sinusoidal", "coord_conv", "none"])
def test_every_number(kind, size):
    torch.manual_seed(0)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    positions = InputPositions(8, kind)
    out = positions(x)
    assert out.shape[1] == positions.out_channels == (11 if kind == "coord_conv" else 8)
    torch.testing.assert_close(out, with_positions(kind, x), rtol=1e-10, atol=1e-12)
    assert not [*positions.parameters(), *positions.buffers()]


@pytest.mark.parametrize("kind", ["sinusoidal", "coord_conv"])
def test_half_precision_rounds_the_table_only(kind):
    x = torch.zeros(1, 8, 300, 200, dtype=torch.float16)
    expected = InputPositions(8, kind)(x.float())
    found = InputPositions(8, kind)(x)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, rtol=1e-3, atol=1e-3)


def test_positions_tell_all_cells_apart():
    for kind in ("sinusoidal", "coord_conv"):
        table = InputPositions(8, kind)(torch.zeros(1, 8, 20, 30, dtype=torch.float64))[0].flatten(1).T
        distances = torch.cdist(table, table) + torch.eye(len(table))
        assert distances.min() > 1e-3


def test_wrong_channels_are_named_with_a_remedy():
    with pytest.raises(ValueError, match=r"channels=6 cannot hold .*multiple of 4"):
        InputPositions(6, "sinusoidal")
