"""Numbers of recorded attention maps: how gates vary, how far attention reaches, how alike layers are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention import AttentionMap, QuadraticSelfAttention

Maps = Mapping[str, Sequence[AttentionMap]]
"""What `record_attention` has collected: the maps of each operator, one for every call, by the operator's name."""


@dataclass(frozen=True)
class GateVariation:
    """How a gate differs between images (SE, arXiv 1709.01507, figures 6 and 7; arXiv 2304.06345 of constant gates).

    Attributes:
        mean: Mean of every channel's gate over images, positions averaged, (C).
        deviation: Standard deviation over the images, (C).
        share: Part of the gates' variance that lies between images, 0 to 1: at 0 every channel is a constant.
    """

    mean: list[float]
    deviation: list[float]
    share: float


def gate_variation(maps: Maps) -> dict[str, GateVariation]:
    """How the gates of every operator that has some vary over the images.

    Args:
        maps: Maps of at least two images in all. An operator with several gates has one entry for each, by its name.
    """
    found = {}
    for layer, recorded in maps.items():
        for name in dict.fromkeys(each.name for each in recorded if each.rows is None):
            gates = torch.cat([each.weights.mean((2, 3)) for each in recorded if each.name == name]).double()  # (N, C)
            between, total = gates.var(0, correction=0).mean().item(), gates.var(correction=0).item()
            share = between / total if total > 0 else 0.0
            deviation = gates.std(0, correction=0)
            found[f"{layer} {name}".strip()] = GateVariation(gates.mean(0).tolist(), deviation.tolist(), share)
    return found


def attended_distances(maps: Maps, image_size: tuple[int, int]) -> dict[str, list[float]]:
    """Mean distance in pixels between a query and what it attends to, for every head (ViT, arXiv 2010.11929, figure 7).

    Args:
        maps: Maps; gates are left out.
        image_size: Height and width of the images in pixels, by which cells are measured.

    Returns:
        A number a head, of every mixture: mean over images and queries of the distance, weighted by the attention.
    """
    found: dict[str, list[Tensor]] = {}
    for layer, recorded in maps.items():
        for each in recorded:
            if each.rows is None or each.columns is None:
                continue
            cells = _grid(each)
            down = _distances(each.rows, cells[0], image_size[0])
            across = _distances(each.columns, cells[1], image_size[1])
            distance = (down[:, None, :, None] ** 2 + across[:, None] ** 2).sqrt()  # (H', W', h, w)
            weights = each.weights.double()
            mean = (weights * distance).sum((-1, -2)) / weights.sum((-1, -2)).clamp(min=1e-12)
            found.setdefault(f"{layer} {each.name}".strip(), []).append(mean.mean((2, 3)))  # (B, heads)
    return {name: torch.cat(parts).mean(0).tolist() for name, parts in found.items()}


def _distances(keys: Tensor, cells: int, pixels: int) -> Tensor:
    """Pixels between queries (H') and their keys (H', h) on a map of so many cells."""
    queries = len(keys)
    places = (torch.arange(queries, dtype=torch.float64) + 0.5) * pixels / queries
    return (keys.double() + 0.5) * pixels / cells - places.unsqueeze(1)


def similarity(maps: Maps) -> tuple[list[str], list[list[float]]]:
    """How alike the attention of layers is: cosine of heat maps, mean over images (as LaViT's, arXiv 2406.00427).

    Heat maps are centred and brought to the smallest grid of all; those of an operator with several are averaged.

    Returns:
        Names of the layers, and the matrix; a layer whose heat map is flat is like no other.
    """
    heat: dict[str, Tensor] = {}
    for layer, recorded in maps.items():
        sizes = [_grid(each) for each in recorded]
        size = max((rows for rows, _ in sizes), default=1), max((columns for _, columns in sizes), default=1)
        if size == (1, 1):
            continue
        by_name: dict[str, list[Tensor]] = {}
        for each in recorded:
            by_name.setdefault(each.name, []).append(each.heat_map(*size))
        heat[layer] = torch.stack([torch.cat(parts) for parts in by_name.values()]).mean(0).double()
    if not heat:
        return [], []
    smallest = min((tuple(value.shape[1:]) for value in heat.values()), key=lambda size: size[0] * size[1])
    flat = {}
    for layer, value in heat.items():
        small = F.interpolate(value.unsqueeze(1), smallest, mode="area").flatten(1)  # (N, cells)
        flat[layer] = F.normalize(small - small.mean(1, keepdim=True), dim=1)
    names = list(flat)
    return names, [[(flat[a] * flat[b]).sum(1).mean().item() for b in names] for a in names]


def _grid(each: AttentionMap) -> tuple[int, int]:
    """Rows and columns of a gate, or of the map that the keys of a mixture lie on; those outside have no weight."""
    if each.rows is None or each.columns is None:
        return each.weights.shape[-2], each.weights.shape[-1]
    given = each.weights.abs().sum((0, 1)) > 0  # (H', W', h, w)
    rows, columns = each.rows[given.any(1).any(-1)], each.columns[given.any(0).any(-2)]
    return int(rows.max()) + 1, int(columns.max()) + 1


def quadratic_centres(network: nn.Module) -> dict[str, list[list[float]]]:
    """Where heads of quadratic self-attention look, rows and columns from the query (arXiv 1911.03584, figure 3)."""
    return {
        name: module.centres.detach().tolist()
        for name, module in network.named_modules()
        if isinstance(module, QuadraticSelfAttention)
    }
