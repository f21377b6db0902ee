"""Names of tensors by rules."""

import re
from collections.abc import Sequence

Rule = tuple[str, str]
"""A pattern of the beginning of a name, and what stands in its place."""


def renamed(name: str, rules: Sequence[Rule]) -> str:
    """The name by the first rule that fits, or as it is."""
    for pattern, replacement in rules:
        new, count = re.subn(rf"^{pattern}", replacement, name)
        if count:
            return new
    return name
