"""`--version` of every command: the version of this package, and of what it runs on."""

import platform
from argparse import ArgumentParser
from importlib.metadata import PackageNotFoundError, version


def version_line() -> str:
    """`attndense 0.1.0 (torch 2.14.0, lightning 2.6.6, Python 3.11.2)`; nothing is imported for it."""
    beside = ", ".join(f"{package} {_version(package)}" for package in ("torch", "lightning"))
    return f"attndense {_version('attndense')} ({beside}, Python {platform.python_version()})"


def add_version(parser: ArgumentParser) -> None:
    """Adds `--version` to a command."""
    parser.add_argument("--version", action="version", version=version_line(), help="print versions and exit")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
