"""Tables of runs as text: Markdown with aligned columns, CSV, LaTeX."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.errors import TaskError
from tasks.near_names import instead
from tasks.report.baseline import Baseline
from tasks.report.costs import MEASURED, costs_of, measured_on
from tasks.report.groups import Group, in_groups, spread_of
from tasks.report.keys import Keys
from tasks.report.sections import Section

DIFFERENCES = ("difference", "95 % interval", "P(better)", "p, Holm")
NUMBERS = ("parameters", "MACs", *(cost.name for cost in MEASURED), "score", *DIFFERENCES, "seconds", "run", "remark")
"""The last columns of a table, in their order."""
LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"} | {"±": r"$\pm$", "~": r"\textasciitilde{}"}
)


def require_keys(sections: Sequence[Section], by: Sequence[str]) -> None:
    """Refuses keys that no section knows.

    Raises:
        TaskError: There is one.
    """
    every = [Keys(section.finished) for section in sections]
    known = {name for keys in every for key in (*keys.shown, *keys.offered) for name in (key, keys.label(key))}
    for name in by:
        if name not in known:
            raise TaskError(f"--by {name} is no key of these runs{instead(name, sorted(known))}")


def choose_keys(keys: Keys, by: Sequence[str] | None) -> list[str]:
    """The keys that are asked for, by their name or label; by default those that tell configurations apart."""
    if by is None:
        return keys.shown
    return [name for name in (*keys.shown, *keys.offered) if name in by or keys.label(name) in by]


def markdown(sections: Sequence[Section], by: Sequence[str] | None = None, baseline: Baseline | None = None) -> str:
    """One table; one for each section, under its title, where those of a task must not be ranked together."""
    notes: list[str] = []
    ranked = [section for section in sections if section.finished]
    if len({section.facts["task"] for section in ranked}) == len(ranked):
        parts = [_aligned([row for section in ranked for row in _rows(section, by, baseline, notes)])] if ranked else []
    else:
        parts = [f"{section.title}:\n\n{_aligned(_rows(section, by, baseline, notes))}" for section in ranked]
    words = [measured_on(section.finished) for section in ranked]
    others = [f"{run.state}: {run.name}: {run.reason}" for section in sections for run in section.others]
    return "\n\n".join(
        filter(None, [*parts, "\n".join(dict.fromkeys(filter(None, [*notes, *words]))), "\n".join(others)])
    )


def _rows(
    section: Section, by: Sequence[str] | None, baseline: Baseline | None, notes: list[str]
) -> list[dict[str, str]]:
    """The rows of a section; what has to be said of them goes to the notes."""
    names, groups = grouped(section, by)
    changes, said = baseline.changes(groups) if baseline else ([None] * len(groups), [])
    notes += said
    return [
        {"task": section.facts["task"]}
        | {"model" if name == "head" else label: group.keys[name] for name, label in names.items()}
        | _numbers(section, group)
        | (change.cells() if change else {})
        for group, change in zip(groups, changes, strict=True)
    ]


def grouped(section: Section, by: Sequence[str] | None) -> tuple[dict[str, str], list[Group]]:
    """The labels of the keys of a table by their names, and its rows."""
    keys = Keys(section.finished)
    names = choose_keys(keys, by)
    return {name: keys.label(name) for name in names}, in_groups(section.finished, keys, names)


def _numbers(section: Section, group: Group) -> dict[str, str]:
    summary, more = group.runs[0].summary, len(group.runs) - 1
    size = _range(group, "image_size")
    scores = (name.partition("/")[2] for name in (summary["headline"], *summary["beside"]))
    measured = {cost.name: spread_of(map(cost.of, group.runs)) for cost in MEASURED}
    units = {cost.name: cost.label.rpartition(", ")[2] for cost in MEASURED}
    return {
        "parameters": _range(group, "parameters", "{:,}".format),
        "MACs": f"{_range(group, 'MACs', '{:,}'.format)} @ {size}",
        **{name: f"{spread.mean:.1f} {units[name]}" for name, spread in measured.items() if spread},
        "score": ", ".join(f"{name} {group.spread(name) or 'not defined'}" for name in scores),
        "seconds": _range(group, "seconds", "{:.0f}".format),
        "run": group.runs[0].name + (f" and {more} more" if more else ""),
    } | ({"remark": group.remark} if group.remark else {})


def _range(group: Group, name: str, shown: Callable[[Any], str] = str) -> str:
    values = sorted({run.summary[name] for run in group.runs if run.summary.get(name) is not None})
    return "-".join(dict.fromkeys(map(shown, (values[0], values[-1])))) if values else "-"


def _aligned(rows: Sequence[dict[str, str]]) -> str:
    lines = _lines(rows)
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _lines(rows: Sequence[Mapping[str, object]]) -> list[list[str]]:
    """The names of all columns, then the cells of every row; the keys come before the numbers."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = sorted(names, key=lambda name: NUMBERS.index(name) if name in NUMBERS else -1)
    return [columns, *([str(row.get(column, "")) for column in columns] for row in rows)]


def as_csv(sections: Sequence[Section], by: Sequence[str] | None = None, baseline: Baseline | None = None) -> str:
    """Every group with mean and standard deviation of all its scores, what it costs, and its difference from a row."""
    rows: list[dict[str, object]] = []
    for section in sections:
        names, groups = grouped(section, by)
        changes = baseline.changes(groups)[0] if baseline else [None] * len(groups)
        for group, change in zip(groups, changes, strict=True):
            named = {label: group.keys[name] for name, label in names.items()}
            row: dict[str, object] = {"section": section.title, **named, "runs": len(group.runs)}
            for score in group.runs[0].scores:
                if spread := group.spread(score):
                    row |= {score: spread.mean, f"{score} sd": "" if spread.deviation is None else spread.deviation}
            costs = {cost.name: spread_of(map(cost.of, group.runs)) for cost in costs_of(section.finished)}
            row |= {name: spread.mean for name, spread in costs.items() if spread}
            rows.append(row | (change.numbers() if change else {}))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(_lines(rows))
    return text.getvalue().rstrip("\n")


def latex(sections: Sequence[Section], by: Sequence[str] | None = None, baseline: Baseline | None = None) -> str:
    """A tabular of each section, with the rules of booktabs; notes are comments."""
    tables = []
    for section in sections:
        if section.finished:
            notes: list[str] = []
            rows = _rows(section, by, baseline, notes)
            lines = _lines([{name: row[name] for name in row if name != "run"} for row in rows])
            head, *body = (" & ".join(cell.translate(LATEX) for cell in line) + r" \\" for line in lines)
            columns = "l" * len(lines[0])
            rules = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
            said = [f"% {line}" for line in (section.title, *notes)]
            tables.append("\n".join([*said, *rules, r"\end{tabular}"]))
    return "\n\n".join(tables)
