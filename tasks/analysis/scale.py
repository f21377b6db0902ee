"""Selective kernels against the size of objects (Li et al., SKNet, arXiv 1903.06586, figures 3 and 4)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention import SelectiveKernel, record_attention

SCALES = (1.0, 1.25, 1.5, 1.75, 2.0)


def enlarged(image: Tensor, box: Sequence[float], scale: float) -> Tensor:
    """The image around an object, enlarged: a window of 1 / scale of its sides, centred on the box, at the old size.

    Args:
        image: Image (3, H, W), uint8.
        box: x, y, width and height in pixels.
        scale: At least 1.
    """
    height, width = image.shape[1:]
    rows, columns = max(1, round(height / scale)), max(1, round(width / scale))
    top = min(max(0, round(box[1] + box[3] / 2 - rows / 2)), height - rows)
    left = min(max(0, round(box[0] + box[2] / 2 - columns / 2)), width - columns)
    window = image[:, top : top + rows, left : left + columns].float()
    resized = F.interpolate(window.unsqueeze(0), (height, width), mode="bilinear", antialias=True)[0]
    return resized.round().clamp(0, 255).to(torch.uint8)


def kernel_selection(
    backbone: nn.Module,
    prepare: Callable[[Tensor], Tensor],
    objects: Sequence[tuple[Tensor, Sequence[float], str]],
    scales: Sequence[float] = SCALES,
) -> dict[str, dict[str, list[float]]]:
    """Weight of the widest path less that of the narrowest, mean over channels, for every scale.

    Args:
        backbone: Network with selective kernels, in evaluation mode.
        prepare: Makes the network's input (1, 3, H, W) of an image (3, H, W).
        objects: Image, box (x, y, width, height) and class of each object.
        scales: How much the objects are enlarged.

    Returns:
        By class, and for `all` classes, the numbers of every layer by its name; none without selective kernels.
    """
    layers = [name for name, module in backbone.named_modules() if isinstance(module, SelectiveKernel)]
    sums: dict[str, dict[str, Tensor]] = {}
    counts: dict[str, int] = {}
    for image, box, label in objects if layers else ():
        found = {layer: torch.zeros(len(scales), dtype=torch.float64) for layer in layers}
        for number, scale in enumerate(scales):
            with torch.inference_mode(), record_attention(backbone) as maps:
                backbone(prepare(enlarged(image, box, scale)))
            for layer in layers:
                paths = sorted(maps[layer], key=lambda each: int(each.name.removeprefix("path")))
                found[layer][number] = (paths[-1].weights.double().mean() - paths[0].weights.double().mean()).item()
        for key in (label, "all"):
            counts[key] = counts.get(key, 0) + 1
            before = sums.setdefault(key, {})
            for layer, values in found.items():
                before[layer] = before[layer] + values if layer in before else values
    return {key: {layer: (v / counts[key]).tolist() for layer, v in layers.items()} for key, layers in sums.items()}
