"""Commands take subnormal numbers for zero, with which a CPU is many times slower, and leave the process as it was."""

import torch

from tasks.command_line import run, without_subnormals


def product() -> float:
    return (torch.full((64,), 1e-20) * torch.full((64,), 1e-20)).sum().item()  # 1e-40 each


def test_a_command_computes_without_subnormals() -> None:
    found = []
    assert product() > 0
    run(lambda: found.append(product()))
    assert found == [0.0] and product() > 0


def test_an_error_restores_them_too() -> None:
    try:
        with without_subnormals():
            assert product() == 0
            raise ValueError
    except ValueError:
        assert product() > 0
