"""Whether a checkpoint holds the network that it is to be loaded into."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tasks.errors import TaskError


def differences(
    entries: Collection[str], shapes: Mapping[str, torch.Size], found: Mapping[str, Tensor]
) -> dict[str, list[str]]:
    """What a checkpoint lacks, has in other shapes, and has besides: those of the three that are not empty.

    Args:
        entries: Names of the entries that a network has.
        shapes: Shapes that they must have; those that may have any are left out.
        found: Entries of the checkpoint.
    """
    faults = {
        "lacks": [name for name in entries if name not in found and not name.endswith("num_batches_tracked")],
        "has other shapes for": [
            f"{name} {tuple(found[name].shape)} instead of {tuple(shape)}"
            for name, shape in shapes.items()
            if name in found and found[name].shape != shape
        ],
        "has besides": [name for name in found if name not in entries],
    }
    return {fault: names for fault, names in faults.items() if names}


def require_same_network(task: nn.Module, checkpoint: Mapping[str, Any], continues: bool) -> None:
    """Refuses the checkpoint of another network, or of a version in which this one had other parameters.

    Args:
        task: The task that it is to be loaded into.
        checkpoint: Its content.
        continues: Whether training goes on with its optimiser, which must then hold as many tensors as learn here.

    Raises:
        TaskError: It is of another network.
    """
    own = task.state_dict()
    remedy = "expected one of a run with the same model options and version; what fits of it starts a run of its own"
    remedy += " with --model.weights, its backbone alone with --model.backbone.weights"
    for fault, names in differences(
        own, {name: value.shape for name, value in own.items()}, checkpoint["state_dict"]
    ).items():
        raise TaskError(f"the checkpoint is of another network: it {fault} {len(names)}, {listed(names)}; {remedy}")
    if continues and checkpoint.get("optimizer_states"):
        held = sum(len(group["params"]) for group in checkpoint["optimizer_states"][0]["param_groups"])
        learning = sum(parameter.requires_grad for parameter in task.parameters())
        if held != learning:
            raise TaskError(
                f"the optimiser of the checkpoint holds {held} tensors, and {learning} learn here; {remedy}"
            )


def listed(names: Sequence[str], shown: int = 3) -> str:
    """The first few names and how many there are besides: `a, b, c and 77 more`."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
