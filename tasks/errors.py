"""The error that a user of the command lines can fix."""


class TaskError(ValueError):
    """A configuration, checkpoint or run is not as expected.

    The message is one line: the value found, what was expected and the remedy. The command lines print it without a
    traceback.
    """
