"""`run.json`: what a run is, how it stands, and every start of it. Read without the libraries that train."""

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from tasks.headline import Direction
from tasks.run.files import write_text
from tasks.run.summary_file import update_summary
from tasks.run.table_file import TABLE, DamagedTable, read_table

RECORD = "run.json"
KILLED = "killed"
"""Why a start has ended that has written no end: a signal that cannot be caught, memory, a lost machine."""
Status = Literal["running", "stopped", "failed", "finished"]


@dataclass(frozen=True)
class StartRecord:
    """One start of a run. Times are ISO 8601 with their offset to UTC.

    Attributes:
        time: When it took the folder.
        host: Machine of its first process.
        step: Optimiser steps that it went on from.
        device: Name of the GPU, or of the processor; empty before the model is on it.
        ended: When it ended; of a killed one, when it last logged; empty while it runs, or where that is not known.
        last_step: Optimiser steps that it reached; of a killed one, those that it has logged.
        reason: How it ended: `finished`, `stopped by SIGTERM`, `failed: ...`, `killed`; empty while it runs.
    """

    time: str
    host: str
    step: int
    device: str = ""
    ended: str = ""
    last_step: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class RunRecord:
    """What a run is and how it stands: the content of `run.json`.

    Attributes:
        command: The command line that started it.
        job: Key of the cluster job that it belongs to; none outside a cluster.
        restarts: How often the scheduler had started this job again when it last took the run up.
        status: `running`, `stopped` (saved, to be continued), `failed` or `finished`.
        step: Optimiser steps that are saved.
        epoch: Epochs that are complete.
        score: Best number by which the run is judged, by its name; empty where there is none.
        direction: Whether the largest (`max`) or the smallest (`min`) such number is the best.
        reason: Why it ended.
        starts: Its starts, in order.
    """

    command: list[str] = field(default_factory=list)
    job: str | None = None
    restarts: int = 0
    status: Status = "running"
    step: int = 0
    epoch: int = 0
    score: dict[str, float] = field(default_factory=dict)
    direction: Direction = "max"
    reason: str = ""
    starts: list[StartRecord] = field(default_factory=list)

    @property
    def exit(self) -> str:
        """How it ended, in words."""
        if self.status == "finished":
            return f"finished: {self.reason}" if self.reason else "finished"
        if self.status == "failed":
            return f"failed: {self.reason or 'without a word'}"
        if self.status == "stopped":
            return self.reason or "stopped"
        return "running, or killed"  # nothing is written between its start and its end

    def in_summary(self) -> dict[str, Any]:
        """What `summary.json` takes over: `exit`, and `resumed_at`, the steps at which it was taken up again."""
        return {"exit": self.exit, "resumed_at": ", ".join(str(start.step) for start in self.starts if start.step)}

    def started(self, step: int, host: str, folder: Path) -> "RunRecord":
        """With one more start; the one before has been killed if it has written no end."""
        before = [start if start.reason else _killed(start, folder) for start in self.starts]
        return replace(self, status="running", reason="", starts=[*before, StartRecord(now(), host, step)])

    def with_device(self, name: str) -> "RunRecord":
        """With the device of the last start."""
        return replace(self, starts=[*self.starts[:-1], *(replace(start, device=name) for start in self.starts[-1:])])

    def ended(self, last_step: int, reason: str | None = None) -> "RunRecord":
        """With the end of the last start: that of the run, unless another reason is given."""
        end: dict[str, Any] = {"ended": now(), "last_step": last_step, "reason": reason or self.exit}
        return replace(self, starts=[*self.starts[:-1], *(replace(start, **end) for start in self.starts[-1:])])

    def write(self, folder: Path) -> None:
        """Writes it into a run folder, and what is known from it into the summary that lies there."""
        write_text(folder / RECORD, json.dumps(asdict(self), indent=2) + "\n")
        update_summary(folder, self.in_summary())


def read_record(folder: Path) -> RunRecord | None:
    """The record of a run folder; None where there is none that can be read."""
    try:
        content = json.loads((folder / RECORD).read_text())
        return RunRecord(**content | {"starts": [StartRecord(**start) for start in content.get("starts", [])]})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def now() -> str:
    """The time, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _killed(start: StartRecord, folder: Path) -> StartRecord:
    """The end of a start that could not write it, as far as its table tells."""
    try:
        logged = datetime.fromtimestamp((folder / TABLE).stat().st_mtime).astimezone().isoformat(timespec="seconds")
        _, rows = read_table(folder / TABLE)
    except (OSError, DamagedTable):
        return replace(start, reason=KILLED)
    if not rows or datetime.fromisoformat(logged) < datetime.fromisoformat(start.time):  # of an earlier start
        return replace(start, reason=KILLED)
    # A row's step is the one before it was done, as Lightning counts.
    return replace(start, ended=logged, last_step=max(rows) + 1, reason=KILLED)
