"""Tasks: models, losses, metrics and command lines for detection and segmentation.

From Python (docs/python.md): `load` gives a trained model that takes images, `fit` and `train` train.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.inference import load
    from tasks.training import fit, train

__all__ = ["fit", "load", "train"]
_HOMES = {"load": "tasks.inference", "fit": "tasks.training", "train": "tasks.training"}


def __getattr__(name: str) -> Any:
    """Imports a function when it is first asked for: the package alone is imported in no time."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
