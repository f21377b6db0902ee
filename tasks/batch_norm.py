"""Norms that see one value per channel, which has no variance: found before the first step, named when they fail."""

import traceback

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from attention.base import Operator
from backbones.base import host_norms
from tasks.class_tensors import DenseModel
from tasks.errors import TaskError

_COMPLAINT = "Expected more than 1 value per channel"


def refuse_one_value(model: DenseModel, image_size: tuple[int, int], batch_size: int) -> None:
    """Refuses training on one image per process where a batch norm would see a map of 1 x 1.

    Nothing is done for larger batches. Otherwise an image of zeros goes through the model in evaluation mode, where the
    sizes are the same and no statistics move. What only training runs (an auxiliary head) is left to `explain`.

    Args:
        model: In training mode, with `SyncBatchNorm` where several processes share their statistics.
        image_size: Height and width of a training image.
        batch_size: Images per process and step.

    Raises:
        TaskError: Names the norms and says what to do.
    """
    if batch_size > 1:
        return
    shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    affected: list[str] = []
    hooks = [
        module.register_forward_pre_hook(_Watch(name, affected))
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and module.training
        and not (shared and isinstance(module, nn.SyncBatchNorm) and torch.distributed.get_world_size() > 1)
    ]
    device = next(model.parameters()).device
    size = torch.tensor([image_size], device=device)
    image = torch.zeros(1, 3, *image_size, dtype=torch.uint8, device=device)
    training = model.training
    try:
        with torch.no_grad():
            model.eval()({"image": image, "size": size, "targets": [{"original_size": size[0]}]})
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    if affected:
        raise TaskError(_advice(model, affected[0], len(affected) - 1))


def explain(model: nn.Module, error: BaseException) -> str | None:
    """What PyTorch's complaint about one value per channel is about, in a line; None for any other error.

    Args:
        model: The model that was running.
        error: What it has raised; the traceback names the norm, unless a compiled network has raised it.
    """
    if _COMPLAINT not in str(error):
        return None
    names = {id(module): name for name, module in model.named_modules()}
    running = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    inside = [names[id(module)] for module in running if isinstance(module, nn.Module) and id(module) in names]
    return _advice(model, inside[-1] if inside else "", 0)


class _Watch:
    """Forward pre-hook of a batch norm that notes maps with a single value per channel."""

    def __init__(self, name: str, affected: list[str]) -> None:
        self.name, self.affected = name, affected

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            self.affected.append(self.name)


def _advice(model: nn.Module, name: str, others: int) -> str:
    """The norm that has one value per channel, and the ways out that it has."""
    norm = model.get_submodule(name)
    where = f" of {name}" if name else ""
    where += f" (and {others} more)" if others else ""
    if isinstance(norm, nn.GroupNorm):
        return f"a group{where} has one value, which has no variance; use larger images or more channels"
    ways = ["use a --data.batch_size of at least 2 per process"]
    parents = [model.get_submodule(name[:end]) for end, letter in enumerate(name) if letter == "."]
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, nn.Module) and any(norm is module for module in host_norms(backbone)):
        ways.append("--model.backbone.norms eval")
    elif any(isinstance(parent, Operator) for parent in parents):
        ways.append("attention without a batch norm over pooled values")
    else:
        ways.append("on several GPUs SyncBN (--trainer.sync_batchnorm true)")
    return f"the batch norm{where} has one value per channel, which has no variance; {', or '.join(ways)}"
