"""What early stopping and the like watch: that it is logged, and that it is watched the right way round.

Lightning says so after the first validation, which may be hours later, and of a score that rises under `mode: min`, its
default, nothing: training would end just because it gets better.
"""

from collections.abc import Iterable

from lightning.pytorch import Callback

from tasks.errors import TaskError
from tasks.metrics.named import NamedMetrics
from tasks.near_names import instead


def check_monitors(callbacks: Iterable[Callback], metrics: NamedMetrics, has_loss: bool) -> None:
    """Refuses callbacks that watch a number of the validation that is not logged, or the wrong way round.

    Args:
        callbacks: Callbacks of a user's.
        metrics: The task's metrics.
        has_loss: Whether the loss of the validation is logged.

    Raises:
        TaskError: With the names that are logged.
    """
    known = {f"val/{score}": "min" if score in metrics.falling else "max" for score in metrics.scores}
    for callback in callbacks:
        monitor, name = getattr(callback, "monitor", None), type(callback).__name__
        if not isinstance(monitor, str):
            continue
        option = f"--trainer.callbacks.monitor {monitor} ({name})"
        if monitor.startswith("val/loss"):
            if not has_loss:
                raise TaskError(f"{option}: the validation's loss is logged with --model.validation_loss true only")
        elif not monitor.startswith("train/") and monitor not in known:
            raise TaskError(f"{option} is not logged{instead(monitor, list(known))}")
        elif monitor in known and getattr(callback, "mode", None) not in (None, known[monitor]):
            better = "larger" if known[monitor] == "max" else "smaller"
            raise TaskError(f"{option} is better the {better} it is; add --trainer.callbacks.mode {known[monitor]}")
