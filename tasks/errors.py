"""Errors that end a command with one line instead of a traceback; each knows its exit code (`tasks.run.exit_codes`)."""


class TaskError(ValueError):
    """A configuration, checkpoint or run is not as expected, and the user can correct it.

    The message is one line: the value found, what was expected and the remedy. The command lines print it without a
    traceback.
    """

    exit_code = 2


class MachineError(RuntimeError):
    """The machine failed the run: memory, disk, permissions, a lost process. The message says so in one line."""

    exit_code = 3


class NumbersError(ArithmeticError):
    """Losses, gradients or weights are not finite. The message is one line: step, loss parts, images, what to try."""

    exit_code = 4
