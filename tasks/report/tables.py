"""Tables of runs as text: Markdown with aligned columns, CSV, LaTeX."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.errors import TaskError
from tasks.near_names import instead
from tasks.report.costs import MEASURED, costs_of, measured_on
from tasks.report.groups import Group, in_groups, spread_of
from tasks.report.keys import Keys
from tasks.report.sections import Section

NUMBERS = ("parameters", "MACs", *(cost.name for cost in MEASURED), "score", "seconds", "run", "remark")
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


def markdown(sections: Sequence[Section], by: Sequence[str] | None = None) -> str:
    """One table; one for each section, under its title, where those of a task must not be ranked together."""
    ranked = [section for section in sections if section.finished]
    if len({section.facts["task"] for section in ranked}) == len(ranked):
        parts = [_aligned([row for section in ranked for row in _rows(section, by)])] if ranked else []
    else:
        parts = [f"{section.title}:\n\n{_aligned(_rows(section, by))}" for section in ranked]
    words = [measured_on(section.finished) for section in ranked]
    others = [f"{run.state}: {run.name}: {run.reason}" for section in sections for run in section.others]
    return "\n\n".join(filter(None, [*parts, "\n".join(dict.fromkeys(filter(None, words))), "\n".join(others)]))


def _rows(section: Section, by: Sequence[str] | None) -> list[dict[str, str]]:
    keys = Keys(section.finished)
    names = choose_keys(keys, by)
    return [
        {"task": section.facts["task"]}
        | {"model" if name == "head" else keys.label(name): group.keys[name] for name in names}
        | _numbers(section, group)
        for group in in_groups(section.finished, keys, names)
    ]


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


def as_csv(sections: Sequence[Section], by: Sequence[str] | None = None) -> str:
    """Every group with mean and standard deviation of all its scores, and what it costs."""
    rows: list[dict[str, object]] = []
    for section in sections:
        keys = Keys(section.finished)
        names = choose_keys(keys, by)
        for group in in_groups(section.finished, keys, names):
            named = {keys.label(name): group.keys[name] for name in names}
            row: dict[str, object] = {"section": section.title, **named, "runs": len(group.runs)}
            for score in group.runs[0].scores:
                if spread := group.spread(score):
                    row |= {score: spread.mean, f"{score} sd": "" if spread.deviation is None else spread.deviation}
            costs = {cost.name: spread_of(map(cost.of, group.runs)) for cost in costs_of(section.finished)}
            rows.append(row | {name: spread.mean for name, spread in costs.items() if spread})
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(_lines(rows))
    return text.getvalue().rstrip("\n")


def latex(sections: Sequence[Section], by: Sequence[str] | None = None) -> str:
    """A tabular of each section, with the rules of booktabs."""
    tables = []
    for section in sections:
        if section.finished:
            lines = _lines([{name: row[name] for name in row if name != "run"} for row in _rows(section, by)])
            head, *body = (" & ".join(cell.translate(LATEX) for cell in line) + r" \\" for line in lines)
            columns = "l" * len(lines[0])
            rules = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
            tables.append("\n".join([f"% {section.title}", *rules, r"\end{tabular}"]))
    return "\n\n".join(tables)
