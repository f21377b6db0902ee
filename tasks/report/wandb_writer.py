"""Blocks of a report in W&B, made with wandb-workspaces in the process that W&B runs in (`wandb_reader`)."""

from collections.abc import Mapping
from typing import Any

ATTENTION = "attention"
STEP = "trainer/global_step"


def save_report(content: Mapping[str, Any]) -> str:
    """Saves a report.

    Args:
        content: `entity`, `project`, and the `parts` as `wandb_report.Part` has them.

    Returns:
        Its address.

    Raises:
        ValueError: There is no such project; W&B itself would make one.
    """
    import wandb
    from wandb_workspaces.reports.v2 import H1, MarkdownBlock, P, Report, TableOfContents

    entity, project = content["entity"], content["project"]
    if project not in {known.name for known in wandb.Api().projects(entity)}:
        raise ValueError(f"{entity} has no project {project}")
    blocks: list[Any] = [P(text="Made by python -m tasks.compare --wandb-report."), TableOfContents()]
    for part in content["parts"]:
        blocks += [H1(text=part["title"]), MarkdownBlock(text=part["text"])]
        if part["ids"]:
            blocks.append(_grid(entity, project, part))
    report = Report(entity=entity, project=project, title="Comparison of runs", blocks=blocks, width="fluid")
    return str(report.save().url)


def _grid(entity: str, project: str, part: Mapping[str, Any]) -> Any:
    """The table of the runs by attention, their scores, curves and costs."""
    from wandb_workspaces import expr
    from wandb_workspaces.reports.v2 import (
        BarPlot,
        Config,
        LinePlot,
        PanelGrid,
        Runset,
        ScalarChart,
        ScatterPlot,
        SummaryMetric,
    )

    best = SummaryMetric(part["best"])
    spread = {"groupby": Config(ATTENTION), "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    panels: list[Any] = [
        BarPlot(title=f"best {part['score']}, mean of the runs", metrics=[best], **spread),
        ScalarChart(title=f"best {part['score']}, mean of all runs", metric=best, groupby_aggfunc="mean"),
        *(LinePlot(title=name, x=STEP, y=[name], **spread) for name in (part["score"], "train/loss")),
    ]
    for place, name in part["costs"]:
        cost = Config(name) if place == "config" else SummaryMetric(name)
        panels.append(ScatterPlot(title=f"{part['score']} against {name}", x=cost, y=best))
    runs = Runset(
        entity=entity,
        project=project,
        name=part["title"],
        filters=[expr.Metric("ID").isin(list(part["ids"]))],
        groupby=[f"config.{ATTENTION}"],
    )
    return PanelGrid(runsets=[runs], panels=panels)
