"""Which number formats are right for what; pixels and losses are computed in float32 under all of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tasks.errors import TaskError

TRAINS = ("32-true", "64-true", "16-mixed", "bf16-mixed", "32", "64", "16", "bf16")
EVALUATES = (*TRAINS, "16-true", "bf16-true")


OTHER_NAMES = {
    "fp16": "16-mixed",
    "float16": "16-mixed",
    "half": "16-mixed",
    "amp": "16-mixed",
    "mixed": "16-mixed",
    "bfloat16": "bf16-mixed",
    "fp32": "32-true",
    "float32": "32-true",
    "float": "32-true",
    "full": "32-true",
    "fp64": "64-true",
    "float64": "64-true",
    "double": "64-true",
}
"""What other programs call them."""


def no_precision(name: str, option: str = "--trainer.precision") -> str:
    """One line about a word that is none of Lightning's formats."""
    here = f"; here {name} is {OTHER_NAMES[name.lower()]}" if str(name).lower() in OTHER_NAMES else ""
    return f"{option} is {name!r}, expected bf16-mixed, 16-mixed, 32-true or 64-true{here}"


def refuse_precision(precision: str | int | None, fits: bool) -> None:
    """Refuses formats in which a network would not learn, and those for linear layers alone.

    With `bf16-true` and `16-true` the weights themselves are in half precision. A step smaller than 1/256 (1/2048) of
    a weight is then lost: with the step of the COCO recipes 77 to 93 % of the weights do not move in bfloat16, and an
    average of weights (`--ema_decay`) does not move at all.

    Args:
        precision: As `--trainer.precision` has it; None is 32-true.
        fits: Whether it is for training.

    Raises:
        TaskError: The format is refused.
    """
    if precision is not None and str(precision) not in (TRAINS if fits else EVALUATES):
        why = (
            "keeps the weights in half precision, where most steps of training are too small to change them"
            if str(precision) in EVALUATES
            else "is for networks of linear layers and not supported here"
        )
        raise TaskError(f"--trainer.precision {precision} {why}; use bf16-mixed, 16-mixed on older GPUs, or 32-true")


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The same type, or float32 in place of half precision."""
    return torch.promote_types(dtype, torch.float32)


def precise(value: Any) -> Any:
    """The tensor, or the tensors in a dictionary, list or tuple, with float32 in place of half precision."""
    if isinstance(value, dict):
        return {name: precise(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [precise(inner) for inner in value]
    return value.to(at_least_float32(value.dtype)) if isinstance(value, Tensor) else value


@contextmanager
def precise_arithmetic() -> Iterator[None]:
    """Makes float32 the type of new tensors where Lightning has made it half precision, until the context ends.

    Matching, losses and post-processing compute with pixels and with sums over all anchors or pixels, for which half
    precision is too coarse (and non-maximum suppression has none on a CPU).
    """
    kept = torch.get_default_dtype()
    torch.set_default_dtype(at_least_float32(kept))
    try:
        yield
    finally:
        torch.set_default_dtype(kept)
