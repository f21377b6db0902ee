"""Where on a command line an option was refused."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse._subcommands import find_action
from lightning.pytorch.cli import LightningArgumentParser

from tasks.argument_order import COMMANDS


@dataclass
class Place:
    """Where an option was refused.

    Attributes:
        parser: Parser of the class that refused it, or of the command.
        keys: Options that lead there: `["model.backbone", "attention"]`.
        owner: Import path of the class; empty for the command itself.
        arguments: The whole command line.
        text: What the innermost error says.
    """

    parser: LightningArgumentParser
    text: str
    keys: list[str] = field(default_factory=list)
    owner: str = ""
    arguments: Sequence[str] = ()

    def option(self, *name: str) -> str:
        """The option as a user writes it: `--model.backbone.attention`."""
        command, _, rest = ".".join([*self.keys, *name]).partition(".")
        return f"--{rest}" if command in COMMANDS and rest else "--" + ".".join([*self.keys, *name])

    def given(self, option: str) -> str:
        """The last value of an option on the command line; empty where it has none."""
        words = [*self.arguments, ""]
        values = [
            word.partition("=")[2] or following
            for word, following in pairwise(words)
            if word == option or word.startswith(f"{option}=")
        ]
        return values[-1] if values else ""

    def commands(self) -> Iterator[LightningArgumentParser]:
        """The parsers of the commands, where this is the parser above them."""
        action = self.parser._subcommands_action
        yield from () if action is None else action.choices.values()

    def type(self) -> Any:
        """Type of the option at the end of the keys; None where it is unknown."""
        return getattr(find_action(self.parser, self.keys[-1]), "_typehint", None) if self.keys else None

    def one_word(self, option: str) -> str | None:
        """That an option was quoted together with its value."""
        word = next((word for word in self.arguments if re.match(rf"{re.escape(option)}[\w.]* ", word)), None)
        if word is None:
            return None
        parts = "=".join(word.split(maxsplit=1))
        return f"{word!r} is one word; a value stands apart from its option, or behind =: {parts}"

    def recipe(self) -> str:
        """What gives the options that are missing: a recipe to train, the configuration of a run to all else."""
        return "configs/.../NAME.yaml" if self.arguments[:1] in ([], ["fit"]) else "RUN/config.fit.yaml"

    def missing_checkpoint(self) -> str | None:
        """That the checkpoint is missing which would say, in place of a recipe, what the command needs."""
        file = self.given("--ckpt_path")
        if self.given("--config") or not file or file in ("best", "last") or Path(file).is_file():
            return None
        return f"no checkpoint at {file}; --ckpt_path expects a file such as RUN/checkpoints/last.ckpt"
