"""Parts of recipes by their short names: `--model.backbone resnet50_cbam` is `configs/backbones/resnet50_cbam.yaml`."""

import re
from collections.abc import Sequence
from pathlib import Path

FOLDERS = {
    "--model.backbone": "backbones",
    "--model.segmentor": "segmentors",
    "--model.optimizer": "optimizers",
    "--model.lr_schedule": "schedules",
    "--data": "data",
}
"""Options whose value may be the name of a file in this folder below `configs`."""


def with_files(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, with the files of named parts in place of their names.

    The files are looked for beside the folder of the last recipe before the option, `configs` where there is none. A
    name without a file is left as it is: it may be that of a class.

    Args:
        arguments: Arguments of a command line.
    """
    expanded: list[str] = []
    configs = Path("configs")
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if not equals and expanded and expanded[-1] in (*FOLDERS, "--config"):
            option, value = expanded[-1], argument
        if option == "--config" and value:
            configs = Path(value).parent.parent
        file = configs / FOLDERS.get(option, "") / f"{value}.yaml"
        is_part = option in FOLDERS and re.fullmatch(r"\w+", value) and file.is_file()
        expanded.append((f"{option}={file}" if equals else str(file)) if is_part else argument)
    return expanded
