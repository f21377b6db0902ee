"""Gradient checkpointing: activations of a block are computed again in the backward pass, not kept for it.

A block whose forward pass runs twice must not leave its traces twice: running statistics of batch normalisations move
once, random draws (dropout, stochastic depth) repeat, and attention maps are recorded once.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from attention.base import Operator


def checkpointed(module: nn.Module, *inputs: Any, function: Callable[..., Any] | None = None) -> Any:
    """What `module(*inputs)` returns, with its intermediate results computed again when the gradients are.

    Outputs, gradients and running statistics equal those of a plain call. Memory falls to the inputs of the
    checkpointed modules and the intermediate results of one of them; time grows by one forward pass. Without gradients,
    in the evaluation of a network, this is a plain call.

    Inputs must not be changed in place, by the module or afterwards. Under `torch.compile` the module must compile into
    one graph; where its graph breaks, running statistics move twice.

    Args:
        module: Module to run; usually one block of a host.
        *inputs: Its arguments.
        function: What to compute where that is not the module's `forward`: a function that reads no state but that of
            `module`, such as one of its methods.
    """
    call = module if function is None else function
    if not torch.is_grad_enabled():
        return call(*inputs)
    if torch.compiler.is_compiling():  # compilers decide on graphs without side effects, and take no contexts
        return checkpoint(call, *inputs, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _without_traces(module)

    return checkpoint(call, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _without_traces(module: nn.Module) -> Iterator[None]:
    """Lets forward passes change copies of the running statistics and keeps the attention maps that they record away.

    Statistics are exchanged for copies, not switched off: a second pass has to save as many tensors as the first did.
    """
    buffers, maps = [], []
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._NormBase) and part.training:
            buffers.append((part, dict(part._buffers)))
            part._buffers.update({name: None if b is None else b.clone() for name, b in part._buffers.items()})
        elif isinstance(part, Operator) and part.recording:
            maps.append((part, part._maps))
            part.start_recording()
    try:
        yield
    finally:
        for norm, kept in buffers:
            norm._buffers.update(kept)
        for operator, recorded in maps:
            operator._maps = recorded
