"""Writes all recipes of this installation to a folder: `python -m configs FOLDER`."""

import shutil
from pathlib import Path

from configs.mistakes import CommandParser, end_with
from configs.version import add_version

HERE = Path(__file__).parent


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    parser = CommandParser(prog="python -m configs", description="Writes all recipes and their parts to a folder.")
    add_version(parser)
    parser.add_argument("folder", type=Path, help="a folder that does not exist yet, such as configs")
    folder = parser.parse_args(args).folder
    try:
        shutil.copytree(HERE, folder, ignore=shutil.ignore_patterns("*.py", "*.csv", "__pycache__"))
    except FileExistsError:
        end_with(f"{folder} exists already; give the name of a folder that does not")
    except OSError as error:
        end_with(f"cannot write {folder}: {error}")


if __name__ == "__main__":
    main()
