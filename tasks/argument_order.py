"""Options win over configuration files, wherever they stand on a command line.

Lightning reads arguments from left to right, where a file overwrites the options before it without a word. Here the
files come first, in their order, then the options in theirs.
"""

from collections.abc import Sequence

COMMANDS = ("fit", "validate", "test", "predict")
CONFIG = ("--config", "-c")


def in_order(arguments: Sequence[str]) -> list[str]:
    """The arguments with the command in front, its configuration files behind it, and then everything else.

    Args:
        arguments: Arguments of a command line.
    """
    files: list[str] = []
    others: list[str] = []
    takes_file = False
    for argument in arguments:
        is_file = argument.partition("=")[0] in CONFIG or (takes_file and not argument.startswith("-"))
        takes_file = argument in CONFIG
        (files if is_file else others).append(argument)
    return [others[0], *files, *others[1:]] if others and others[0] in COMMANDS else list(arguments)
