"""Whether losses, gradients and weights are finite, asked without waiting for the device where that would cost time."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def gradients_are_finite(module: nn.Module) -> Tensor:
    """One boolean on the device: no gradient holds an infinity or not-a-number.

    The norm is asked, not every element: it is not finite where an element is not, and also where a gradient is so
    large that the square of its norm overflows.
    """
    return _all_finite(p.grad for p in module.parameters() if p.grad is not None)


def weights_are_finite(module: nn.Module) -> Tensor:
    """One boolean on the device: no parameter and no floating-point buffer is or nears infinity."""
    tensors = [*module.parameters(), *module.buffers()]
    return _all_finite(tensor.detach() for tensor in tensors if tensor.is_floating_point())


def _all_finite(tensors: Iterable[Tensor]) -> Tensor:
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel():
            groups.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    if not groups:
        return torch.tensor(True)
    norms = [
        torch.stack(torch._foreach_norm(group, dtype=torch.promote_types(dtype, torch.float32)))
        for (_, dtype), group in groups.items()
    ]
    return torch.isfinite(torch.cat([each.to(norms[0].device, norms[0].dtype) for each in norms]).square().sum())


class DelayedFlag:
    """A boolean on a device that is read a step after it was made, when it has long arrived.

    On the CPU it is read at once.
    """

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event] | None = None

    def put(self, flag: Tensor) -> bool | None:
        """Takes the flag of this step; gives that of the step before (None for none), or this one's on a CPU."""
        if flag.device.type != "cuda":
            return bool(flag)
        before = self.read()
        arrived = torch.cuda.Event()
        copied = torch.empty((), dtype=flag.dtype, pin_memory=True)
        copied.copy_(flag, non_blocking=True)
        arrived.record()
        self._pending = copied, arrived
        return before

    def read(self) -> bool | None:
        """The flag that is under way, waited for; None for none."""
        if self._pending is None:
            return None
        copied, arrived = self._pending
        self._pending = None
        arrived.synchronize()
        return bool(copied)
