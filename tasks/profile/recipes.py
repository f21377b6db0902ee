"""The model of a recipe or of a run, by part."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tasks import built
from tasks.profile import costs
from tasks.profile.counting import counted_macs
from tasks.profile.parts import by_part, kept_bytes, parameters_by_part
from tasks.profile.timing import PATIENCE, median_milliseconds, milliseconds
from tasks.run.resume import newest_good_checkpoint
from tasks.weights import read_checkpoint

WHOLE = "whole model"


def build(source: Path, more: Sequence[str], classes: int | None) -> Any:
    """The task of a recipe or a run, as its own command line builds it; weights are not loaded, since none cost more.

    Args:
        source: Recipe or run folder.
        more: Further options, as at `fit`.
        classes: Number of classes, which spares the data set; none takes those of the run, or else of the data set.

    Raises:
        TaskError: There is no such recipe or run.
        SystemExit: The command line has refused an option, in its own words.
    """
    is_run, more = source.is_dir(), built.behind_recipe(more)
    config, content, kind = built.read_source(source)
    checkpoint = newest_good_checkpoint(source) if classes is None and is_run else None
    if checkpoint is not None:
        classes = len(read_checkpoint(checkpoint.path)["hyper_parameters"]["class_names"])
    arguments = ["fit", f"--config={config}", *more, *_without_training(kind, classes)]
    shown = content if is_run and not more else built.shown_config(kind, arguments)  # a run's config is whole
    own = (shown["model"]["backbone"].get("init_args") or {}).get("weights")
    if own is not None or (shown.get("host") or {}).get("weights") is not None:
        arguments.append("--model.backbone.weights=null")
    return built.build(kind, [*arguments, "--model.weights=null"]).task


def _without_training(kind: str, classes: int | None) -> list[str]:
    """Options that build on any machine; with a number of classes also without a data set."""
    options = ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    if classes is not None:
        options += ["--data.root=none", f"--data.class_names={[f'class {number}' for number in range(classes)]}"]
        if kind == "detector":
            options += [f"--data.category_ids={list(range(classes))}", "--data.images=none"]
    return options


def random_batch(size: tuple[int, int], batch: int, device: str) -> dict[str, Any]:
    """A training batch of both tasks: random images, each with one box and a mask, all of class 0."""
    height, width = size
    sizes = torch.tensor([size] * batch, device=device)
    box = torch.tensor([[width / 4, height / 4, width / 2, height / 2]], device=device)
    label = torch.zeros(1, dtype=torch.int64, device=device)
    mask = torch.zeros(1, height, width, dtype=torch.uint8, device=device)
    mask[:, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 1
    return {
        "image": torch.randint(256, (batch, 3, height, width), dtype=torch.uint8, device=device),
        "size": sizes,
        "mask": torch.zeros(batch, height, width, dtype=torch.uint8, device=device),
        "targets": [{"original_size": each, "boxes": box, "labels": label, "masks": mask} for each in sizes],
    }


def profile(
    source: Path,
    more: Sequence[str],
    classes: int | None,
    size: tuple[int, int] | None,
    batch: int,
    device: str,
    rounds: int,
) -> dict[str, Any]:
    """Measures the model of a recipe or a run.

    Returns:
        What `costs.result_of` names, with `source` and `classes`. Rows have name, parameters, MACs, `forward_ms` of a
        forward pass in evaluation, `kept_MB` that a training step keeps for the backward pass; that of the whole model
        also `training_ms` of forward and backward.
    """
    task = build(source, more, classes)
    size = size or task.image_size
    model = task.model.to(device)
    rows = measure(model, random_batch(size, batch, device), device, rounds)
    return costs.result_of(device, size, batch, rows, []) | {"source": str(source), "classes": len(task.class_names)}


def measure(model: nn.Module, batch: dict[str, Any], device: str, rounds: int) -> list[dict[str, Any]]:
    """One row a part, the rest, and the whole model; see `profile`."""
    parameters = parameters_by_part(model)
    model.eval()
    with counted_macs() as so_far:
        macs = by_part(model, lambda: model(batch), so_far)
    times: list[dict[str, float]] = []
    begin = time.perf_counter()
    with torch.no_grad():
        while len(times) < rounds + 1 and (len(times) < 2 or time.perf_counter() - begin < PATIENCE):
            times.append(by_part(model, lambda: model(batch), lambda: milliseconds(device)))
    model.train()
    with kept_bytes(model) as so_far:
        kept = by_part(model, lambda: model(batch), so_far)
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "parameters": parameters[name],
            "MACs": int(macs[name]),
            "forward_ms": statistics.median(each[name] for each in times[1:]),  # the first warms up
            "kept_MB": kept[name] / 2**20,
        }
        for name in parameters
    ]
    whole = {key: sum(row[key] for row in rows) for key in ("parameters", "MACs", "forward_ms", "kept_MB")}
    training = median_milliseconds(lambda: training_step(model, batch), device, rounds)
    return [*rows, {"name": WHOLE, **whole, "training_ms": training}]


def training_step(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, ...]:
    """Gradients of the sum of all losses with respect to all parameters that are not frozen."""
    losses = [value.mean() for value in model(batch).values() if value.requires_grad]
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.autograd.grad(torch.stack(losses).sum(), learnt, allow_unused=True)


def format_table(result: dict[str, Any]) -> str:
    """A Markdown table of the parts."""
    lines = [["part", "parameters", "MACs", "forward ms", "kept MB", "fwd+bwd ms"]]
    for row in result["rows"]:
        numbers = [costs.number(row[key]) for key in ("parameters", "MACs", "forward_ms", "kept_MB")]
        lines.append([row["name"], *numbers, costs.number(row["training_ms"]) if "training_ms" in row else ""])
    title = (
        f"{result['source']}: {result['batch']} x 3 x {result['size']}, {result['classes']} classes, float32, "
        f"{result['device']}, torch {result['torch']}; kept: for the backward pass of a training step"
    )
    return "\n".join([title, "", *costs.table(lines)])
