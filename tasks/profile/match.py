"""A plain backbone that takes as long as one with attention: the control that spends the same time otherwise.

FLOPs of attention are few and its time is not (Klomp et al., Neural Processing Letters 2023), so that what is held
equal is the measured time: of one forward pass, or of one training step. Candidates are the host without attention,
narrower to wider or shallower to deeper (`tasks.profile.plain`). Each is timed in turn with the given backbone in one
process, so that a drift of the machine hits both alike; the nearest is timed again, because what was measured to be the
nearest of several owes some of that to noise.
"""

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml

from backbones import Backbone
from tasks.errors import TaskError
from tasks.profile import costs
from tasks.profile.backbones import calls, count_network
from tasks.profile.plain import Candidate, build, ladders, own_size, read_backbone, without_attention
from tasks.profile.timing import milliseconds, time_in_turn

Step = Literal["forward", "training"]
AT_LEAST = 0.2
"""Seconds that a timed run lasts; shorter calls are repeated."""
_CHOICES = 3
"""How often the nearest is chosen and timed again; with the new time, the search may take another way."""
_AROUND = 2
"""Rungs that are tried on either side of the crossing, where times do not rise with every rung."""
Rung = TypeVar("Rung")


@dataclass(frozen=True)
class Setup:
    """How networks are timed.

    Attributes:
        size: Height and width of the images in pixels.
        batch: Images.
        device: `cpu` or `cuda`.
        rounds: Counted runs of both networks.
    """

    size: tuple[int, int]
    batch: int
    device: str
    rounds: int


@dataclass(frozen=True)
class Ratio:
    """Time of a network by that of the given one.

    Attributes:
        ratio: Ratio of the medians over all rounds.
        least: Smallest ratio of a round.
        most: Largest ratio of a round.
        milliseconds: Median time of the network.
        given_milliseconds: Median time of the given one beside it.
    """

    ratio: float
    least: float
    most: float
    milliseconds: float
    given_milliseconds: float


def time_against(given: Callable[[], object], other: Callable[[], object], setup: Setup) -> Ratio:
    """Times two calls in turn."""
    seconds = time_in_turn(
        {"given": given, "other": other}, setup.rounds, lambda: milliseconds(setup.device) / 1000, AT_LEAST
    )
    rounds = [ours / theirs for ours, theirs in zip(seconds["other"], seconds["given"], strict=True)]
    theirs, ours = (1000 * statistics.median(seconds[name]) for name in ("given", "other"))
    return Ratio(ours / theirs, min(rounds), max(rounds), ours, theirs)


def nearest(ladder: Sequence[Rung], ratio: Callable[[Rung], float]) -> Rung:
    """The rung whose ratio is nearest to 1, by bisection: ratios rise along the ladder, but for what noise makes of it.

    Args:
        ladder: Candidates, at least one, by rising cost.
        ratio: Measures one; asked for few of them, for some twice.
    """
    low, high = 0, len(ladder)
    while low < high:  # the first that takes at least as long is not before low, nor behind high
        middle = (low + high) // 2
        low, high = (middle + 1, high) if ratio(ladder[middle]) < 1 else (low, middle)
    around = ladder[max(0, low - _AROUND) : low + _AROUND] or ladder[-1:]
    return min(around, key=lambda rung: abs(ratio(rung) - 1))


class Contest:
    """The given backbone against plain ones, each of which is timed once.

    Args:
        file: File of the given backbone.
        step: The step whose time counts.
        setup: How networks are timed.

    Attributes:
        content: What the file says, without weights.
        given: The backbone.
        measured: Ratios of all candidates so far.

    Raises:
        TaskError: The file is no backbone.
    """

    def __init__(self, file: Path, step: Step, setup: Setup) -> None:
        self.content = read_backbone(file)
        self.given = build(self.content)
        self.measured: dict[Candidate, Ratio] = {}
        self._step, self._setup = step, setup
        self._calls = self._calls_of(self.given)

    def ratio(self, candidate: Candidate) -> float:
        """Ratio of the times of the step that counts, measured at the first call."""
        if candidate not in self.measured:
            self.measured[candidate] = self.time(candidate, self._step)
            print(f"{candidate}: {self.measured[candidate].ratio:.3f}", file=sys.stderr)  # noqa: T201
        return self.measured[candidate].ratio

    def time(self, candidate: Candidate, step: Step) -> Ratio:
        """Times one step of a candidate anew.

        Raises:
            TaskError: The step fails, as training does where a norm sees a single value.
        """
        ours = self._calls_of(build(self.plain(candidate)))
        try:
            return time_against(self._calls[step], ours[step], self._setup)
        except (ValueError, RuntimeError) as error:
            raise TaskError(f"{step} fails ({costs.last_line(error)}); try another --size or --batch") from error

    def plain(self, candidate: Candidate) -> dict[str, Any]:
        """What a file of the candidate says."""
        return without_attention(self.content, self.given, candidate)

    def _calls_of(self, network: Backbone) -> costs.Calls:
        return calls(network.to(self._setup.device), *self._setup.size, self._setup.batch)

    def rows(self) -> list[dict[str, Any]]:
        """The given backbone, then the candidates by MACs: parameters, MACs, milliseconds and ratios."""
        theirs = statistics.median(each.given_milliseconds for each in self.measured.values())
        rows = [self._row(str(each), self.plain(each), ratio) for each, ratio in self.measured.items()]
        given = self._row("given", self.content, Ratio(1.0, 1.0, 1.0, theirs, theirs))
        return [given, *sorted(rows, key=lambda row: int(row["MACs"]))]

    def _row(self, name: str, content: Mapping[str, Any], ratio: Ratio) -> dict[str, Any]:
        counted = count_network(lambda: build(content), *self._setup.size, self._setup.batch)
        shown = {key: value for key, value in asdict(ratio).items() if key != "given_milliseconds"}
        return {"name": name} | counted | shown


def match(file: Path, step: Step, tolerance: float, setup: Setup) -> dict[str, Any]:
    """Looks for the plain form of a backbone's host that takes as long as the backbone.

    Args:
        file: Its file, such as configs/backbones/resnet50_cbam.yaml.
        step: What is timed: `forward` in evaluation without gradients, or `training`, forward and backward.
        tolerance: Largest difference between 1 and the ratio of times that counts as equal.
        setup: How networks are timed.

    Returns:
        What `costs.result_of` names, and `file`, `host`, `step`, `rounds`, `tolerance`; `rows` are those of
        `Contest.rows`. `best` is the nearest candidate: its name, whether it is `within` the tolerance, its ratios
        when timed again (`forward`, `training`; the one that is not asked for where it runs), the `backbone` as a file
        has it, and the `options` that make it of the given one on a command line.

    Raises:
        TaskError: The file is no backbone, its host has no plain form that is wider or deeper, or the step fails.
    """
    contest = Contest(file, step, setup)
    rungs = ladders(contest.given)
    contest.ratio(own_size(contest.given))  # what the attention costs
    for _ in range(_CHOICES):
        finalists = [nearest(ladder, contest.ratio) for ladder in rungs]
        best = min(finalists, key=lambda candidate: abs(contest.ratio(candidate) - 1))
        again = {step: contest.time(best, step)}
        if within := abs(again[step].ratio - 1) <= tolerance:
            break
        contest.measured[best] = again[step]
    skipped = []
    (other,) = set(get_args(Step)) - {step}
    try:
        again[other] = contest.time(best, other)
    except TaskError as error:
        skipped.append({"name": f"time of {other}", "reason": str(error)})
    backbone = contest.plain(best)
    ratios: dict[str, Any] = {name: asdict(ratio) for name, ratio in again.items()}
    return costs.result_of(setup.device, setup.size, setup.batch, contest.rows(), skipped) | {
        "file": str(file),
        "host": type(contest.given).__name__,
        "step": step,
        "rounds": setup.rounds,
        "tolerance": tolerance,
        "best": {
            "name": str(best),
            "within": within,
            "backbone": backbone,
            "options": _options(contest.content, backbone),
        }
        | ratios,
    }


def _options(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Options of a command line that make one backbone of another; those of another class come after its name."""
    same = before["class_path"] == now["class_path"]
    kept = before["init_args"].items() if same else ()
    changed = [item for item in now["init_args"].items() if item not in kept]
    values = ((name, value if isinstance(value, str) else json.dumps(value)) for name, value in changed)
    named = [] if same else [f"--model.backbone={now['class_path']}"]
    return [*named, *(f"--model.backbone.{name}={value}" for name, value in values)]


def verdict(result: dict[str, Any]) -> str | None:
    """Why the nearest candidate is no match, in one line; none where it is one."""
    best, count = result["best"], len(result["rows"]) - 1
    if best["within"]:
        return None
    return (
        f"no plain {result['host']} takes as long as {result['file']} within {result['tolerance']:.0%}: of {count} "
        f"tried (the table), {best['name']} is nearest, at {_ratio(best[result['step']])} when timed again; allow more "
        "(--tolerance), time longer (--rounds) on a quiet machine, or take a host of finer widths"
    )


def backbone_file(result: dict[str, Any]) -> str:
    """The nearest candidate as a file for configs/backbones, with what was measured."""
    best = result["best"]
    comment = f"# Plain {result['host']}, {best['name']}, which takes as long as {result['file']}."
    return f"{comment}\n# {_measured(result)}\n{yaml.safe_dump(best['backbone'], sort_keys=False)}"


def format_table(result: dict[str, Any]) -> str:
    """A Markdown table of what was timed, and the match."""
    lines = [["network", "parameters", "MACs", "ms", "ratio (least..most)"]]
    for row in result["rows"]:
        cells = (costs.number(row[key]) for key in ("parameters", "MACs", "milliseconds"))
        lines.append([row["name"], *cells, _ratio(row)])
    step = "forward" if result["step"] == "forward" else "forward and backward"
    title = f"{result['file']} and plain {result['host']}, {step}, {_where(result)}"
    best, text = result["best"], [title, "", *costs.table(lines), "", *costs.notes(result)]
    if best["within"]:
        text += [f"{best['name']}, timed again: {_measured(result)}", f"options: {' '.join(best['options'])}"]
    return "\n".join(text)


def _measured(result: dict[str, Any]) -> str:
    again = {step: result["best"][step] for step in get_args(Step) if step in result["best"]}
    ratios = ", ".join(f"{step} {_ratio(found)} of its time" for step, found in again.items())
    return f"{ratios}; {_where(result)}"


def _where(result: dict[str, Any]) -> str:
    return (
        f"{result['batch']} x 3 x {result['size']}, float32, {result['device']}, torch {result['torch']}, "
        f"{result['rounds']} rounds"
    )


def _ratio(found: Mapping[str, Any]) -> str:
    return f"{found['ratio']:.3f} ({found['least']:.3f}..{found['most']:.3f})"
