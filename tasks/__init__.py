"""Tasks: models, losses, metrics and command lines for detection and segmentation.

From Python (docs/python.md): `load` gives a trained model that takes images, `fit` and `train` train, and give a
`TrainedRun`, which `TrainedRun(folder)` is of an older run, too. What is refused is a `TaskError`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.errors import TaskError
    from tasks.inference import load
    from tasks.trained_run import TrainedRun
    from tasks.training import fit, train

__all__ = ["TaskError", "TrainedRun", "fit", "load", "train"]
_HOMES = {
    "TaskError": "tasks.errors",
    "TrainedRun": "tasks.trained_run",
    "fit": "tasks.training",
    "load": "tasks.inference",
    "train": "tasks.training",
}


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def __getattr__(name: str) -> Any:
    """Imports a function when it is first asked for: the package alone is imported in no time."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
