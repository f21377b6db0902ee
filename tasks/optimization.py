"""Parameter groups: which learning rate and weight decay each parameter gets."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.optim import Optimizer

from attention import IdentityStart
from attention.base import find_position_tables
from backbones import Backbone
from tasks.errors import TaskError
from tasks.ranges import check_range


@dataclass(frozen=True)
class ParameterRules:
    """How learning rate and weight decay differ between parameters.

    Attributes:
        decay_norms_and_biases: Decay normalisation parameters, biases and position tables like all others, as the SGD
            recipes of COCO and ADE20K do; `false` leaves them out, as AdamW recipes do. The scalar by which a
            refinement is faded in (`attention.IdentityStart`) never decays.
        decay_biases: With `decay_norms_and_biases: false`, leave out layer normalisations and position tables only:
            biases and the heads' batch normalisations decay, as in the COCO and ADE20K recipes of Swin and ELSA-Swin
            (arXiv 2103.14030, 2112.12786), which go by names.
        backbone_multiplier: Factor on the learning rate of the backbone.
        layer_decay: Factor on the learning rate from one layer group of the backbone to the one below it, in 0..1;
            1 treats all layers alike.
        base_batch_size: Number of images for which the learning rate is meant. When given, it is multiplied by the
            images of an optimiser step (over all processes and accumulated batches) over this number.
    """

    decay_norms_and_biases: bool = True
    decay_biases: bool = False
    backbone_multiplier: float = 1.0
    layer_decay: float = 1.0
    base_batch_size: int | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        note = "; to freeze the backbone use --host.frozen_stages"
        check_range("--model.parameter_rules.backbone_multiplier", self.backbone_multiplier, 0, note=note)
        check_range("--model.parameter_rules.base_batch_size", self.base_batch_size, 1, note=", or null")
        if not 0 < self.layer_decay <= 1:
            raise TaskError(
                f"--model.parameter_rules.layer_decay is {self.layer_decay}, expected above 0 and at most 1"
            )

    def build(self, optimizer: OptimizerCallable, model: nn.Module, images_per_step: int) -> Optimizer:
        """Makes the optimiser over all parameters of a model that are not frozen.

        Args:
            optimizer: Makes an optimiser from parameter groups.
            model: The model, with its `Backbone` somewhere inside.
            images_per_step: Images that contribute to one optimiser step.

        Returns:
            The optimiser; each of its groups has a `name`, and the learning rate that the rules give it.

        Raises:
            TaskError: Every parameter is frozen.
        """
        groups: dict[tuple[str, float, bool], list[nn.Parameter]] = {}
        exempt = identity_scalars(model)
        if not self.decay_norms_and_biases:
            exempt |= exempt_from_decay(model, spare_biases=not self.decay_biases)
        for name, parameter, part, factor in scaled_parameters(model, self.backbone_multiplier, self.layer_decay):
            decays = name not in exempt
            groups.setdefault((part, factor, decays), []).append(parameter)
        if not groups:
            raise TaskError("every parameter is frozen; lower frozen_stages")
        made = optimizer(
            [
                {"params": parameters, "name": part if decays else f"{part}, no decay", "factor": factor}
                | ({} if decays else {"weight_decay": 0.0})
                for (part, factor, decays), parameters in groups.items()
            ]
        )
        scale = 1.0 if self.base_batch_size is None else images_per_step / self.base_batch_size
        for group in made.param_groups:
            group["lr"] *= group.pop("factor") * scale
        return made


def scaled_parameters(
    model: nn.Module, multiplier: float, layer_decay: float
) -> Iterator[tuple[str, nn.Parameter, str, float]]:
    """Yields name, parameter, name of the part and learning rate factor of every parameter that is not frozen."""
    backbone = next((module for module in model.modules() if isinstance(module, Backbone)), None)
    layers = [] if backbone is None else backbone.layer_groups()
    layer_of = {id(parameter): layer for layer, group in enumerate(layers) for parameter in group}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = layer_of.get(id(parameter))
        if layer is None:
            yield name, parameter, "head", 1.0
        else:
            part = "backbone" if layer_decay == 1 else f"backbone layer {layer}"
            yield name, parameter, part, multiplier * layer_decay ** (len(layers) - layer)


def identity_scalars(model: nn.Module) -> dict[str, nn.Parameter]:
    """The scalars that fade refinements in; decay would pull these back to where they started from."""
    return {
        f"{name}.alpha": module.alpha for name, module in model.named_modules() if isinstance(module, IdentityStart)
    }


def exempt_from_decay(model: nn.Module, spare_biases: bool = True) -> dict[str, nn.Parameter]:
    """Normalisation parameters and biases (one dimension), and the position tables that parts of a model declare.

    Args:
        model: The model.
        spare_biases: False takes of the former only those of layer normalisations.
    """
    owners = model.named_modules() if spare_biases else _layer_norms(model)
    flat = {
        f"{prefix}.{name}" if prefix else name: parameter
        for prefix, module in owners
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim <= 1
    }
    return flat | find_position_tables(model)


def _layer_norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, nn.LayerNorm))


def group_table(optimizer: Optimizer) -> str:
    """The parameter groups as a table: name, tensors, parameters, base learning rate and weight decay."""
    header = ("parameter group", "tensors", "parameters", "learning rate", "weight decay")
    rows = [
        (
            str(group.get("name", number)),
            str(len(group["params"])),
            f"{sum(parameter.numel() for parameter in group['params']):,}",
            f"{float(torch.as_tensor(group.get('initial_lr', group['lr']))):.3g}",
            f"{group.get('weight_decay', 0.0):.3g}",
        )
        for number, group in enumerate(optimizer.param_groups)
    ]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (header, *rows)]
    return "\n".join("  ".join(line).rstrip() for line in lines)
