"""What the exit code of a command says: one table for scripts, documentation and tests."""

import signal

FINISHED = 0
FAILED = 1
MISTAKE = 2
MACHINE = 3
NUMBERS = 4
TIME_LIMIT = 124
INTERRUPTED = 128 + signal.SIGINT
USER_SIGNAL = 128 + signal.SIGUSR1
TERMINATED = 128 + signal.SIGTERM

MEANINGS = {
    FINISHED: "the command is done; a run has reached its last step, saved and scored",
    FAILED: "an error in the program: a traceback says where",
    MISTAKE: "a user's mistake in options, files or data: one line says what and how to correct it",
    MACHINE: "the machine failed the run: memory, disk, permissions, a lost process; the last checkpoint stays good",
    NUMBERS: "losses, gradients or weights are not finite; the last checkpoint stays good",
    TIME_LIMIT: "`--trainer.max_time` ended the run before its last step; saved, scored, to be continued",
    INTERRUPTED: "stopped by SIGINT (Ctrl-C); saved, to be continued",
    USER_SIGNAL: "stopped by SIGUSR1; saved, to be continued",
    TERMINATED: "stopped by SIGTERM; saved, to be continued",
}
"""Every exit code of `python -m tasks.detect` and `python -m tasks.segment`."""


def of_signal(number: int) -> int:
    """Exit code of a run that a signal has stopped, as shells count it."""
    return 128 + number
