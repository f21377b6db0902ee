"""What an exception says to the user: one line with the cause and the remedy, and the exit code.

Whatever ends a command comes here once. Project errors have their line already; what PyTorch, Lightning and the
operating system raise is known by its text, because a loader process hands on nothing else. For everything else the
traceback is shown, and the last line names the step and the images.
"""

import re
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from datamodules import DataError
from datamodules.now_reading import read_last
from datamodules.sampling import SampleKey
from tasks.errors import MachineError, NumbersError, TaskError
from tasks.run import exit_codes
from tasks.run.known_failures import KNOWN_FAILURES

PROJECT_ERRORS = {
    TaskError: TaskError.exit_code,
    DataError: exit_codes.MISTAKE,
    MachineError: MachineError.exit_code,
    NumbersError: NumbersError.exit_code,
}
"""Errors whose message is written for the user."""

WORDED_ERRORS = (ValueError, RuntimeError, ArithmeticError, ImportError, OSError)
"""Errors that a constructor raises about its arguments; others are errors of the program, and want a traceback."""

STOPPED = (exit_codes.TIME_LIMIT, exit_codes.INTERRUPTED, exit_codes.USER_SIGNAL, exit_codes.TERMINATED)
"""Exit codes of a run that has ended before its last step as it was told."""

LONGEST = 400
"""Characters of a foreign message that are shown."""


@dataclass(frozen=True)
class Failure:
    """How a command has failed.

    Attributes:
        message: One line for the user.
        exit_code: Row of `exit_codes.MEANINGS`.
        is_echo: True where only the connection to another process was lost: that one knows the cause.
        rank: Process that failed.
    """

    message: str
    exit_code: int
    is_echo: bool = False
    rank: int = 0

    def line(self) -> str:
        """The last line of the command."""
        where = f"process {self.rank}: " if self.rank else ""
        return f"error: {where}{self.message}"


def explain(error: BaseException) -> Failure:
    """The failure behind an exception.

    Args:
        error: What ended the command.

    Returns:
        The failure; with exit code 1 (`exit_codes.FAILED`) the traceback says more.
    """
    causes = list(_causes(error))
    speaking = [link for link in causes if own_words(link)] or causes
    exit_code = next((code for link in causes if (code := _project_code(link)) is not None), None)
    is_worded = isinstance(speaking[0], WORDED_ERRORS) or _project_code(speaking[0]) is not None
    if exit_code is not None and is_worded:
        return Failure(own_words(speaking[0]), exit_code)
    where = place(error)
    for known in KNOWN_FAILURES:
        for text in map(_text, causes):
            if found := re.search(known.pattern, text, re.DOTALL):
                message = _fill(known.message, found)
                if known.is_echo:
                    return Failure(f"{message}: {_brief(text)}", known.exit_code, is_echo=True)
                if worker := re.search(r"DataLoader worker \(pid(?:\(s\))? (\d+)", text):
                    where = _place_of_loader(int(worker[1]))  # the batch at hand is not the one that it was reading
                return Failure(message + where, known.exit_code)
    for link in causes:
        if isinstance(link, FileNotFoundError) and link.filename and not Path(link.filename).parent.exists():
            folder = Path(link.filename).parent
            return Failure(
                f"{folder} does not exist, or no longer: see whether its disk is there{where}", exit_codes.MACHINE
            )
    return Failure(_brief(_text(speaking[0])) + where, exit_codes.FAILED)


def failure_of(error: BaseException) -> Failure | None:
    """The failure behind an exception, or none where the run was only asked to stop, or says itself how it ends."""
    if isinstance(error, SystemExit | KeyboardInterrupt) or getattr(error, "exit_code", None) in STOPPED:
        return None
    return explain(error)


def own_words(error: BaseException) -> str:
    """What an error says itself, in one line.

    Another process hands its traceback on in the message, whose last project error is meant. jsonargparse puts the
    message into a text about types: such a text is of no use, and gives nothing.

    Args:
        error: Any error.

    Returns:
        The line; empty for jsonargparse's text.
    """
    text = str(error).strip()
    if _is_traceback(text):
        text = _last_words(text).partition(": ")[2]
    if re.match(r"Does not validate against|Problem with given class_path|Parser key ", text):
        return ""
    return " ".join(text.split())


def place(error: BaseException) -> str:
    """Where an exception was raised: ` (after step 12; images a.jpg, b.jpg)`, as far as its frames know.

    Args:
        error: An exception with its traceback.
    """
    step, images = "", []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        values = frame.f_locals
        if isinstance(trainer := values.get("trainer"), pl.Trainer):
            step = f"after step {trainer.global_step}"
        if isinstance(batch := values.get("batch"), Mapping):
            images = [_image_name(target) for target in batch.get("targets", [])]
        if isinstance(values.get("self"), DataLoader | _BaseDataLoaderIter):
            images = []  # the batch of the frames before is done, the next one is being read
        if isinstance(key := values.get("key"), SampleKey):
            images = [f"sample {key.index}"]
    named = f"images {', '.join(images[:8])}{' ...' if len(images) > 8 else ''}" if images else ""
    facts = "; ".join(fact for fact in (step, named) if fact)
    return f" ({facts})" if facts else ""


def _place_of_loader(pid: int) -> str:
    path = read_last(pid)
    return "" if path is None else f" (it was reading {path})"


def _image_name(target: Mapping[str, Any]) -> str:
    return Path(str(target.get("file_name", target.get("image_id")))).name


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _project_code(error: BaseException) -> int | None:
    """Exit code of a project error, also of one in another process."""
    text = _text(error)
    for kind, code in PROJECT_ERRORS.items():
        if isinstance(error, kind) or (_is_traceback(str(error)) and re.match(rf"(?:\w+\.)*{kind.__name__}: ", text)):
            return code
    return None


def _is_traceback(text: str) -> bool:
    return "Traceback (most recent call last)" in text


def _last_words(text: str) -> str:
    """The last project error of a traceback, or else its last line."""
    names = "|".join(kind.__name__ for kind in PROJECT_ERRORS)
    return (re.findall(rf"^(?:\w+\.)*(?:{names}): .*$", text, re.MULTILINE) or text.splitlines())[-1]


def _text(error: BaseException) -> str:
    """`TYPE: TEXT`, of the error in the other process where it comes from one."""
    text = str(error).strip()
    return _last_words(text) if _is_traceback(text) else f"{type(error).__name__}: {text}"


def _fill(message: str, found: re.Match[str]) -> str:
    detail = next((group for group in found.groups() if group), "")
    return message.replace("{0}", _brief(detail))


def _brief(text: str) -> str:
    """One line; of a long text the first sentences."""
    line = " ".join(text.split())
    if len(line) <= LONGEST:
        return line
    return line[:LONGEST].rpartition(". ")[0] or line[:LONGEST] + " ..."
