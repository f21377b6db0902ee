"""Number formats: training in half precision alone is refused."""

import pytest
import torch

from tasks.errors import TaskError
from tasks.precision import precise, precise_arithmetic, refuse_precision


@pytest.mark.parametrize("precision", [None, 16, 32, 64, "16-mixed", "bf16-mixed", "32-true", "64-true", "bf16"])
def test_formats_for_training(precision: str | int | None) -> None:
    refuse_precision(precision, fits=True)
    refuse_precision(precision, fits=False)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_half_precision_is_for_evaluation(precision: str) -> None:
    refuse_precision(precision, fits=False)
    with pytest.raises(TaskError, match=rf"--trainer.precision {precision} keeps the weights .*; use bf16-mixed"):
        refuse_precision(precision, fits=True)


def test_format_for_linear_layers() -> None:
    for fits in (True, False):
        with pytest.raises(TaskError, match="transformer-engine is for networks of linear layers"):
            refuse_precision("transformer-engine", fits)


def test_steps_of_a_recipe_are_lost_in_half_precision() -> None:
    """Why it is refused: the step of the COCO recipes on a weight of usual size."""
    weight, step = torch.tensor(0.05), 0.01 * torch.tensor(0.005)
    assert weight - step != weight
    assert weight.bfloat16() - step.bfloat16() == weight.bfloat16()


def test_precise() -> None:
    value = {"a": torch.ones(1, dtype=torch.float16), "b": [torch.ones(1, dtype=torch.float64)], "c": "text"}
    found = precise(value)
    assert found["a"].dtype == torch.float32 and found["b"][0].dtype == torch.float64 and found["c"] == "text"
    torch.set_default_dtype(torch.bfloat16)
    try:
        with precise_arithmetic():
            assert (torch.arange(3) / 7).dtype == torch.float32
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)
