"""The command line of a generated page below `docs`: prints it, writes it, or says that it is outdated."""

import sys
from argparse import ArgumentParser
from pathlib import Path


def run_page_command(
    module: str,
    description: str,
    text: str,
    page: Path,
    root: Path,
    args: list[str] | None,
    parser_class: type[ArgumentParser] = ArgumentParser,
) -> None:
    """Runs the command line.

    Args:
        module: Module that is run, for messages.
        description: What the page holds.
        text: The page as it should be.
        page: The page as it is.
        root: Folder that the project lies in.
        args: Arguments; default: those of the process.
        parser_class: Class of the parser.
    """
    shown = page.relative_to(root)
    parser = parser_class(prog=f"python -m {module}", description=description)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page to this file instead")
    parser.add_argument("--check", action="store_true", help=f"exit code 1 when {shown} is outdated")
    options = parser.parse_args(args)
    if options.check and (not page.is_file() or page.read_text() != text):
        sys.exit(f"error: {page} is outdated; run python -m {module} --write {shown}")
    if options.write:
        try:
            options.write.write_text(text)
        except OSError as error:
            parser.exit(2, f"error: cannot write {options.write}: {error.strerror}\n")
    elif not options.check:
        print(text, end="")  # noqa: T201
