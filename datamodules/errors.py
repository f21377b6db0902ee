"""The error that a data set's owner can fix."""


class DataError(ValueError):
    """Something in the data set, or in where it is looked for, is not as expected.

    The message is one line: the file, the value found, what was expected and the remedy. The command lines print it
    without a traceback.
    """
