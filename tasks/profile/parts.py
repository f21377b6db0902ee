"""What the forward pass of a model costs, split among its parts: backbone, neck, heads, and the rest."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

REST = "rest"
"""What no part does: normalisation of the images, losses, suppression of double detections, resizing."""


def parts_of(model: nn.Module) -> dict[str, nn.Module]:
    """The children of a model that have parameters, by name."""
    return {name: child for name, child in model.named_children() if next(child.parameters(), None) is not None}


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Parameters of each part and of the rest; one that parts share is the first one's."""
    counted: set[nn.Parameter] = set()
    found = {}
    for name, part in (*parts_of(model).items(), (REST, model)):
        own = set(part.parameters()) - counted
        found[name] = sum(parameter.numel() for parameter in own)
        counted |= own
    return found


def by_part(model: nn.Module, call: Callable[[], object], reading: Callable[[], float]) -> dict[str, float]:
    """By how much a reading grows during a call, by the part of the model that runs meanwhile.

    Args:
        model: The model; its parts' `forward` is wrapped during the call, as some libraries call that directly.
        call: What runs the model.
        reading: A clock or a counter.
    """
    spent = dict.fromkeys((*parts_of(model), REST), 0.0)
    inside, last = [REST], reading()

    def charge() -> None:
        nonlocal last
        now = reading()
        spent[inside[-1]] += now - last
        last = now

    def charged(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*inputs: Any, **options: Any) -> Any:
            charge()
            inside.append(name)
            try:
                return forward(*inputs, **options)
            finally:
                charge()
                inside.pop()

        return run

    for name, part in parts_of(model).items():
        part.forward = charged(name, part.forward)
    try:
        call()
        charge()
    finally:
        for part in parts_of(model).values():
            del part.forward  # the class's own is visible again
    return spent


@contextmanager
def kept_bytes(model: nn.Module) -> Iterator[Callable[[], float]]:
    """Gives a function that says how many bytes autograd has kept so far inside for a backward pass.

    Memory that several operations keep counts once, that of parameters and buffers never. No backward pass can follow.

    Args:
        model: The model whose parameters and buffers are left out.
    """
    own = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # holds them: a freed address would be used again

    def keep(value: Tensor) -> None:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda _: torch.empty(0)):
        yield lambda: float(sum(storage.nbytes() for storage in kept.values()))
