"""The figures of the analyses, as SVG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.analysis.maps import GateVariation

_FONT: Any = {"font.size": 7, "axes.titlesize": 7, "svg.hashsalt": "attndense", "svg.fonttype": "none"}


@mpl.rc_context(_FONT)
def draw_gates(gates: Mapping[str, GateVariation], file: Path) -> None:
    """A panel a gate: channels in the order of their mean, with the deviation over images around it."""
    figure = Figure(figsize=(8, 1.8 * -(-len(gates) // 3) + 0.3), layout="constrained")
    for place, (name, gate) in zip(_panels(figure, len(gates), 3), gates.items(), strict=False):
        order = sorted(range(len(gate.mean)), key=gate.mean.__getitem__)
        mean = [gate.mean[channel] for channel in order]
        low = [gate.mean[channel] - gate.deviation[channel] for channel in order]
        high = [gate.mean[channel] + gate.deviation[channel] for channel in order]
        place.plot(mean, linewidth=0.8)
        place.fill_between(range(len(mean)), low, high, alpha=0.3)
        place.set_title(f"{name}\n{100 * gate.share:.0f} % between images")
    _save(figure, file)


@mpl.rc_context(_FONT)
def draw_distances(distances: Mapping[str, Sequence[float]], file: Path) -> None:
    """A point a head, layer by layer."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    (place,) = _panels(figure, 1, 1)
    for number, (name, heads) in enumerate(distances.items()):
        place.plot([number] * len(heads), list(heads), "o", markersize=3, label=name)
    place.set_xticks(range(len(distances)), list(distances), rotation=90)
    place.set_ylabel("mean distance attended, pixels")
    _save(figure, file)


@mpl.rc_context(_FONT)
def draw_similarity(names: Sequence[str], matrix: Sequence[Sequence[float]], file: Path) -> None:
    """A matrix of layers by layers."""
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    (place,) = _panels(figure, 1, 1)
    image = place.imshow(matrix, vmin=-1, vmax=1, cmap="coolwarm")
    place.set_xticks(range(len(names)), list(names), rotation=90)
    place.set_yticks(range(len(names)), list(names))
    figure.colorbar(image, label="cosine of heat maps")
    _save(figure, file)


@mpl.rc_context(_FONT)
def draw_centres(centres: Mapping[str, Sequence[Sequence[float]]], file: Path) -> None:
    """A panel a layer: where each head looks, the query in the middle."""
    figure = Figure(figsize=(8, 2.4 * -(-len(centres) // 3)), layout="constrained")
    for place, (name, heads) in zip(_panels(figure, len(centres), 3), centres.items(), strict=False):
        place.plot([column for _, column in heads], [row for row, _ in heads], "o", markersize=4)
        place.plot([0], [0], "k+")
        place.invert_yaxis()
        place.set_aspect("equal", "datalim")
        place.set_title(name)
    _save(figure, file)


@mpl.rc_context(_FONT)
def draw_selection(selection: Mapping[str, Mapping[str, Sequence[float]]], scales: Sequence[float], file: Path) -> None:
    """A panel a class, a line a layer: the widest path's weight less the narrowest's against the object's scale."""
    figure = Figure(figsize=(8, 2.4 * -(-len(selection) // 3)), layout="constrained")
    panels = sorted(selection.items(), key=lambda panel: (panel[0] != "all", panel[0]))
    for place, (label, layers) in zip(_panels(figure, len(panels), 3), panels, strict=False):
        for layer, values in layers.items():
            place.plot(scales, values, linewidth=0.9, label=layer)
        place.set_title(label)
        place.set_xlabel("scale of the object")
        place.set_ylabel("widest path less narrowest")
        if label == "all":
            place.legend()
    _save(figure, file)


def _panels(figure: Figure, count: int, columns: int) -> list[Axes]:
    return [figure.add_subplot(-(-count // columns), min(columns, count), n + 1) for n in range(count)]


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file, format="svg", metadata={"Date": None})
