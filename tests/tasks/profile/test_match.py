"""`python -m tasks.profile match`: the search against trying everything, on a clock that knows the truth; mistakes."""

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml
from torch import nn

from backbones import Backbone, MobileNetV1
from tasks.errors import TaskError
from tasks.profile import match, timing
from tasks.profile.__main__ import main
from tasks.profile.costs import Calls
from tasks.profile.plain import Candidate, build, ladders, own_size, read_backbone, without_attention
from tests.tasks.conftest import refused

ROOT = Path(__file__).parents[3]
FILES = ROOT / "configs" / "backbones"
SETUP = match.Setup((64, 96), 1, "cpu", 3)
TINY = {"class_path": "backbones.MobileNetV1", "init_args": {"width": 0.1, "attention": "attention.StaticGate"}}


def exhaustive(ladder: Sequence[int], ratio: Callable[[int], float]) -> float:
    return min(abs(ratio(rung) - 1) for rung in ladder)


def test_search_finds_what_trying_everything_finds() -> None:
    """Also where all are too fast or too slow, and where neighbours are the wrong way round."""
    chance = random.Random(0)
    for length in [*range(1, 40), 76]:
        costs = sorted(chance.uniform(0.1, chance.choice([0.9, 3.0, 30.0])) for _ in range(length))
        swapped = chance.randrange(length)
        costs[swapped : swapped + 2] = reversed(costs[swapped : swapped + 2])
        asked: set[int] = set()

        def ratio(rung: int, costs: list[float] = costs, asked: set[int] = asked) -> float:
            asked.add(rung)
            return costs[rung]

        found = match.nearest(range(length), ratio)
        assert len(asked) <= length.bit_length() + 4
        assert abs(costs[found] - 1) == exhaustive(range(length), costs.__getitem__)


class Truth:
    """A clock on which a network takes a microsecond a parameter, attention as long as it is told; four times to train.

    Single runs take up to half a percent longer or less. The first time of a network may be wrong by a factor.
    """

    def __init__(self, attention: float, wrong_at_first: dict[int, float] | None = None) -> None:
        self.now, self.attention, self.chance = 0.0, attention, random.Random(0)
        self.wrong = wrong_at_first or {}

    def cost(self, network: nn.Module) -> float:
        of_attention = any(type(module).__module__.startswith("attention.") for module in network.modules())
        return 1e-3 * size(network) * (self.attention if of_attention else 1)

    def calls(self, network: Backbone, *_: int) -> Calls:
        cost = self.cost(network)
        factor = self.wrong.pop(size(network), 1.0)

        def spend(times: float) -> None:
            self.now += times * cost * factor * self.chance.uniform(0.995, 1.005)

        return {"forward": lambda: spend(1), "training": lambda: spend(4)}


def on_clock(truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(match, "calls", truth.calls)
    monkeypatch.setattr(match, "milliseconds", lambda device: truth.now)
    without_counts(monkeypatch)


def without_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(match, "count_network", lambda make, *_: dict.fromkeys(("parameters", "MACs"), size(make())))
    monkeypatch.setattr(timing.gc, "collect", lambda: 0)
    monkeypatch.setattr(match, "AT_LEAST", 0.0)


def size(network: nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())


@pytest.mark.parametrize(("attention", "step"), [(1.0, "forward"), (1.6, "training")])
def test_match_is_the_nearest_of_all_candidates(
    attention: float, step: match.Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = Truth(attention)
    on_clock(truth, monkeypatch)
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY | {"init_args": TINY["init_args"] | {"weights": "nowhere.pth"}}))
    result = match.match(file, step, 0.05, SETUP)
    best, given = result["best"], truth.cost(build(TINY))
    costs = [truth.cost(MobileNetV1(each.value)) / given for each in ladders(build(TINY))[0]]
    assert abs(best[step]["ratio"] - 1) <= min(abs(cost - 1) for cost in costs) + 0.02
    assert best["within"] and match.verdict(result) is None
    assert best["backbone"] == {
        "class_path": "backbones.MobileNetV1",
        "init_args": {
            "width": pytest.approx(float(best["name"].removeprefix("width="))),
            "attention": None,
            "attention_between": None,
            "mixer": None,
        },
    }
    assert best["training"]["milliseconds"] == pytest.approx(4 * best["forward"]["milliseconds"], rel=0.03)
    first, *rows = result["rows"]
    (own,) = [row for row in rows if row["name"] == "width=0.1"]
    assert first["name"] == "given" and first["ratio"] == 1
    assert first["parameters"] - own["parameters"] == sum(x.numel() for x in gates(build(TINY))) > 0
    assert own["ratio"] == pytest.approx(own["parameters"] / first["parameters"] / attention, rel=0.03)
    assert [row["MACs"] for row in rows] == sorted(row["MACs"] for row in rows)
    assert all(row["least"] <= row["ratio"] <= row["most"] for row in rows)


def gates(network: nn.Module) -> list[nn.Parameter]:
    return [value for name, value in network.named_parameters() if name.endswith("scores")]


def test_a_wrong_time_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest is timed again, and the search goes on with the new time."""
    given = build(TINY)
    ladder = [Candidate("width", width) for width in (0.1, 0.126, 0.164, 0.184, 0.2)]
    monkeypatch.setattr(match, "ladders", lambda host: [ladder])
    chosen = ladder[1]
    wrong = size(build(without_attention(TINY, given, chosen)))
    truth = Truth(2.0 * wrong / size(given))  # the given one takes twice as long
    truth.wrong = {wrong: 2.0}
    on_clock(truth, monkeypatch)
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY))
    result = match.match(file, "forward", 0.05, SETUP)
    assert not truth.wrong and result["best"]["within"] and result["best"]["name"] == "width=0.184"
    (row,) = [row for row in result["rows"] if row["name"] == str(chosen)]
    assert row["ratio"] == pytest.approx(0.5, rel=0.05)


def test_nothing_near_is_an_error_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = Truth(50.0)
    on_clock(truth, monkeypatch)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    line = r"error: no plain MobileNetV1 takes as long as .*tiny.yaml within 5%: of \d+ tried "
    with pytest.raises(
        SystemExit, match=line + r"\(the table\), width=0\.(198|2) is nearest, at 0\.0\d+ \(.*--tolerance.*--rounds"
    ):
        main(["match", str(tmp_path / "tiny.yaml"), "--size", "64x96", "--write", str(tmp_path / "match.yaml")])
    assert "timed again" not in capsys.readouterr().out
    assert not (tmp_path / "match.yaml").exists()


def test_command_on_a_real_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it writes builds, and is the network of the options; how near it is belongs to no test."""
    monkeypatch.setattr(match, "AT_LEAST", 0.0)
    monkeypatch.setattr(timing.gc, "collect", lambda: 0)
    monkeypatch.setattr(match, "ladders", lambda host: [[Candidate("width", 0.12)]])
    given, written = tmp_path / "tiny.yaml", tmp_path / "match.yaml"
    given.write_text(yaml.safe_dump(TINY))
    arguments = [
        "--match",
        str(given),
        "--size",
        "32x48",
        "--rounds",
        "1",
        "--tolerance",
        "0.99",
        "--write",
        str(written),
    ]
    main(arguments)
    title, _, _, _, first, *rows, _, again, options = capsys.readouterr().out.splitlines()
    assert title.startswith(f"{given} and plain MobileNetV1, forward, 1 x 3 x 32x48, float32, CPU, one thread, torch ")
    assert first.split("|")[1].strip() == "given" and "timed again: forward " in again and "training " in again
    macs = {row.split("|")[1].strip(): row.split("|")[3] for row in (first, *rows)}
    assert macs["given"] == macs["width=0.1"]
    assert options == (
        "options: --model.backbone.attention=null --model.backbone.width=0.12 --model.backbone.attention_between=null "
        "--model.backbone.mixer=null"
    )
    first_line, second_line, *_ = written.read_text().splitlines()
    assert first_line == f"# Plain MobileNetV1, width=0.12, which takes as long as {given}."
    assert second_line == again.replace("width=0.12, timed again:", "#")
    network = build(read_backbone(written))
    assert network.width == 0.12 and not gates(network)


@pytest.mark.parametrize("name", ["resnet50_cbam", "resnet18_cbam", "halo_resnet50", "sasa_resnet50_stem"])
def test_resnets_are_as_wide_or_as_deep(name: str) -> None:
    content = read_backbone(FILES / f"{name}.yaml")
    host = build(content)
    widths, depths = ladders(host)
    assert own_size(host) == Candidate("width_per_group", 64)
    basic = name == "resnet18_cbam"
    assert [each.value for each in widths] == ([64] if basic else [*range(32, 129, 4)])
    others = {18, 34} if basic else {26, 38, 50, 101, 152}
    assert [each.value for each in depths] == sorted(others - {host.depth})
    plain = build(without_attention(content, host, own_size(host)))
    assert {type(module).__module__.partition(".")[0] for module in plain.modules()} <= {
        "torch",
        "torchvision",
        "backbones",
    }
    of_torchvision = {18: 11_176_512, 50: 23_508_032}  # without classifiers
    assert size(plain) == of_torchvision[host.depth]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            None,
            r"cannot read .*given.yaml \(.*No such file.*\); give a file such as configs/backbones/resnet50_cbam.yaml",
        ),
        ("a: [", r"cannot read .*given.yaml"),
        ("width: 1.0", r"given.yaml is no backbone: it needs class_path"),
        ("class_path: backbones.ResNett", r"backbones.ResNett cannot be built: .*ResNett"),
        ("{class_path: backbones.ResNet, init_args: {depht: 50}}", r"backbones.ResNet cannot be built: .*depht"),
        ("{class_path: backbones.ResNet, init_args: {depth: 51}}", r"backbones.ResNet cannot be built: .*51"),
        (
            "class_path: backbones.VGG",
            "VGG has no plain form that is wider or deeper; match a backbone of class ResNet, ",
        ),
    ],
)
def test_mistakes_are_named(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "given.yaml").write_text(text)
    with refused(f"^error: .*{message}"):
        main(["match", str(tmp_path / "given.yaml"), "--size", "32x32"])


def test_a_step_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch normalisation of one value cannot train; what runs is compared all the same."""
    without_counts(monkeypatch)
    monkeypatch.setattr(match, "ladders", lambda host: [[own_size(host)]])
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    setup = match.Setup((32, 32), 1, "cpu", 1)
    result = match.match(tmp_path / "tiny.yaml", "forward", 0.99, setup)
    reason = r"training fails \(Expected more than 1 value per channel.*\); try another --size or --batch"
    assert "training" not in result["best"] and "training" not in match.backbone_file(result)
    assert re.search(f"\nleft out: time of training: {reason}\n", match.format_table(result))
    with pytest.raises(TaskError, match=reason):
        match.match(tmp_path / "tiny.yaml", "training", 0.99, setup)
