"""Attention maps: the weights that operators applied, noted down only while somebody asks for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class AttentionMap:
    """Weights that one operator applied in one call.

    A gate has weights that broadcast to the map, (B, C or 1, H or 1, W or 1), and neither `rows` nor `columns`. Where
    only a part of the channels is gated, C is their number, which divides that of the map.

    A mixture has weights (B, heads, H', W', h, w): what the query at (i, j) gave to each of h x w keys. Key (a, b)
    stands at row `rows[i, a]` and column `columns[j, b]` of the input; keys outside the input have indices below zero
    or from its size on. The same two tables describe global attention (all rows, all columns), axial attention (h = 1
    or w = 1), blocks and neighbourhoods.

    Attributes:
        name: What was weighted, such as `channel`, `position`, `row` or `key`.
        weights: The weights, detached, in the precision in which they were applied.
        rows: Rows of the keys, (H', h), for a mixture.
        columns: Columns of the keys, (W', w), for a mixture.
    """

    name: str
    weights: Tensor
    rows: Tensor | None = None
    columns: Tensor | None = None

    def heat_map(self, height: int, width: int) -> Tensor:
        """Attention per position of the input, (B, height, width).

        For a gate the mean of its weights over channels; for a mixture the sum of what all queries gave to a position,
        averaged over heads.

        Args:
            height: Height H of the input in cells.
            width: Width W of the input in cells.
        """
        if self.rows is None or self.columns is None:
            return self.weights.mean(1).expand(-1, height, width)
        weights = self.weights.mean(1)  # (B, H', W', h, w)
        rows, columns = (  # (H', h, H) and (W', w, W): one-hot, all zero outside the input
            (table.unsqueeze(-1) == torch.arange(size, device=table.device)).to(weights.dtype)
            for table, size in ((self.rows, height), (self.columns, width))
        )
        return torch.einsum("bijac,iay,jcx->byx", weights, rows, columns)


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, list[AttentionMap]]]:
    """Collects the attention maps of every operator in a model while the context lasts.

        with record_attention(model) as maps:
            model(images)
        maps["layer1.0.attention"][0].weights

    Every call of an operator appends its maps. Weights are copied out of the graph, so memory grows with every call;
    record single batches. A model wrapped by `torch.compile` or DDP has to be unwrapped first. Within such a context
    others may record the same operators or parts of the model; each gets the maps of the calls made in it.

    Args:
        model: Any module; its operators are found by name.

    Yields:
        Maps by the operator's name within the model; the model's own name is the empty string.
    """
    from attention.base import Operator  # base imports this file

    maps: dict[str, list[AttentionMap]] = {}
    before: dict[str, tuple[Operator, list[AttentionMap] | None]] = {}
    try:
        for name, module in model.named_modules():
            if isinstance(module, Operator):
                before[name] = module, module._maps
                maps[name] = module.start_recording()
        yield maps
    finally:
        for name, (operator, around) in before.items():
            operator._maps = around
            if around is not None:  # a context around this one
                around.extend(maps[name])
