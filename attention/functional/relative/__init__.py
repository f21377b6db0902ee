"""Softmax attention of blocks of queries to windows of keys, with relative row and column vectors.

Read `windows.py` and then `tokens.py` first: which keys a query sees, and the plain form, standard operators that store
all logits. It is what is exported, the only form that has the weights, and the fastest on a CPU while they are few.
`operators.py` has the equation, the functions that callers use, and the choice of a form; `chunks.py` goes through a
large map a few windows at a time on a CPU, and stores no logits.
"""

from attention.functional.relative.operators import (
    Implementation,
    RelativeTables,
    Scaling,
    check_heads,
    join_heads,
    relative_attention,
    relative_attention_with_weights,
)
from attention.functional.relative.windows import Windows

__all__ = [
    "Implementation",
    "RelativeTables",
    "Scaling",
    "Windows",
    "check_heads",
    "join_heads",
    "relative_attention",
    "relative_attention_with_weights",
]
