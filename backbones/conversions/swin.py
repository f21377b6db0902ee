"""Weights of Swin Transformers in other layouts, under torchvision's names."""

import re
from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK = re.compile(r"(?:layers|stages)\.(\d+)\.blocks\.(\d+)\.(.+)")
_MERGING = re.compile(r"(?:layers|stages)\.(\d+)\.downsample\.(.+)")
_RENAMED = {  # beginnings of names, of whole ones or behind the block
    "patch_embed.proj.": "features.0.0.",
    "patch_embed.projection.": "features.0.0.",
    "patch_embed.norm.": "features.0.2.",
    "head.fc.": "fc.",
    "head.": "fc.",
    "attn.w_msa.": "attn.",
    "mlp.fc1.": "mlp.0.",
    "mlp.fc2.": "mlp.3.",
    "ffn.layers.0.0.": "mlp.0.",
    "ffn.layers.1.": "mlp.3.",
}
_DERIVED = (".relative_position_index", ".attn_mask", ".relative_id")  # buffers that follow from the configuration


def from_any_swin(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Entries under torchvision's names, the last linear layer as `fc`; unknown entries keep their names.

    Known layouts: torchvision (`features.1.0.`), the authors' and MMDetection 2's (`layers.0.blocks.0.`, patch merging
    at the end of a stage), timm's (patch merging at the beginning of a stage), and that of MMSegmentation 1 and
    MMDetection 3 (`stages.0.blocks.0.`, the four cells of a merged patch channel by channel).
    """
    merging_leads = not any(name.startswith("layers.0.downsample.") for name in state)  # timm
    converted = {}
    for name, value in state.items():
        if name.endswith(_DERIVED):
            continue
        if block := _BLOCK.fullmatch(name):
            stage, index, rest = block.groups()
            name = f"features.{2 * int(stage) + 1}.{index}.{_renamed(rest)}"
        elif merging := _MERGING.fullmatch(name):
            stage, rest = merging.groups()
            if name.startswith("stages."):
                position, value = 2 * int(stage) + 2, _by_cell(value)
            else:
                position = 2 * int(stage) + (0 if merging_leads else 2)
            name = f"features.{position}.{rest}"
        else:
            name = _renamed(name)
        converted[name] = value
    return converted


def resized_table(table: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """A table of relative positions ((2 w - 1)^2, heads) interpolated for another window; None if heads differ.

    The grid of offsets is resized bicubically, as the authors' detection code does.
    """
    if table.dim() != 2 or len(shape) != 2 or table.shape[1] != shape[1]:
        return None
    side, new = isqrt(table.shape[0]), isqrt(shape[0])
    if side**2 != table.shape[0] or new**2 != shape[0]:
        return None
    grid = table.T.reshape(1, -1, side, side).float()
    resized = F.interpolate(grid, (new, new), mode="bicubic", align_corners=False)
    return resized.flatten(2)[0].T.to(table.dtype).contiguous()


def _renamed(name: str) -> str:
    for old, new in _RENAMED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _by_cell(value: Tensor) -> Tensor:
    """Last dimension (C, 4 cells in row-major order) as (4 cells, C), the cell below coming before the one beside."""
    cells = value.unflatten(-1, (-1, 4)).transpose(-2, -1)
    return cells[..., torch.tensor([0, 2, 1, 3]), :].flatten(-2)
