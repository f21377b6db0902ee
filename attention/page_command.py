"""The command line of a generated page below `docs`: prints it, writes it, or says that it is outdated."""

import sys
from pathlib import Path

from configs.mistakes import CommandParser, end_with


def run_page_command(module: str, description: str, text: str, page: Path, root: Path, args: list[str] | None) -> None:
    """Runs the command line.

    Args:
        module: Module that is run, for messages.
        description: What the page holds.
        text: The page as it should be.
        page: The page as it is.
        root: Folder that the project lies in.
        args: Arguments; default: those of the process.
    """
    shown = page.relative_to(root)
    parser = CommandParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page to this file instead")
    parser.add_argument("--check", action="store_true", help=f"exit code 1 when {shown} is outdated")
    options = parser.parse_args(args)
    if options.check and (not page.is_file() or page.read_text() != text):
        sys.exit(f"error: {page} is outdated; run python -m {module} --write {shown}")
    if options.write:
        try:
            options.write.write_text(text)
        except OSError as error:
            end_with(f"cannot write {options.write}: {error.strerror}")
    elif not options.check:
        print(text, end="")  # noqa: T201
