"""`python -m tasks.profile` on tiny maps and images; what the numbers are, never how large a time is."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from attention import Mixer, Refine
from tasks.profile import backbones, costs, fresh, operators
from tasks.profile.__main__ import main
from tests.tasks.conftest import refused

ROOT = Path(__file__).parents[3]


def run(*arguments: str) -> None:
    main(["attention", "--size", "6x5", "--batch", "2", "--rounds", "2", *arguments])


def test_table_has_ratios_and_reasons(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"forward": fresh.Memory(1.0, 2.0), "training": fresh.Memory(1.0, 3.0)}
    monkeypatch.setattr(costs, "extra_memories", lambda *arguments: peaks)
    run("--channels", "8", "--names", "CBAM,SpatialAttention,LearnToPayAttention")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 x 8 x 6x5, float32, CPU, one thread, torch ")
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4 and len({len(line) for line in table}) == 1
    assert "584 (1.00)" in table[2] and "100 (0.17)" in table[3] and "3.0 (1.00)" in table[3]
    assert "left out: CBAM: reduction=16 leaves no hidden channel of channels=8; give a value of at most 8" in lines
    assert "left out: LearnToPayAttention: takes more than one map" in lines


class Heads(Mixer):
    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, heads: int = 8) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.chunk(2, 2)[0]


class Needy(Refine):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("first line\nand the reason")


def test_defaults_are_made_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "operator_classes", lambda: {"Heads": Heads, "Needy": Needy})
    assert [operators.make("Heads", channels).heads for channels in (16, 12, 7)] == [8, 6, 7]
    assert isinstance(operators.make(operators.REFERENCE, 4), nn.Conv2d)
    with pytest.raises(ValueError, match="needs width, which has no default"):
        operators.make("Needy", 8)


def test_what_does_not_run_is_listed_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(name: str, problem: operators.Problem, rounds: int) -> costs.Row:
        if name == "Needy":
            Needy(8, 1)(problem.tensor())
        return costs.Row(name, 1, 2, 3.0, 4.0, 5.0, 6.0)

    monkeypatch.setattr(operators, "measure", measure)
    result = operators.profile(["Needy", "Other"], operators.Problem(8, 3, 3, 1, "cpu"), 1)
    assert [row["name"] for row in result["rows"]] == ["3x3 convolution", "Other"]
    assert result["skipped"] == [{"name": "Needy", "reason": "and the reason"}]
    assert "left out: Needy: and the reason" in operators.format_table(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--names", "CBAN"], "there is no operator 'CBAN', .*; did you mean CBAM"),
        (["--size", "6"], "--size is '6', expected HEIGHTxWIDTH"),
        (["--size", "0x4"], "--size is '0x4', expected HEIGHTxWIDTH"),
        (["--batch", "0"], "--batch is '0', expected an integer from 1 on"),
        (["--peers"], "--peers is no option; known: --help, --size"),
        pytest.param(
            ["--device", "cuda"],
            "no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str) -> None:
    with refused(message):
        main(["attention", *arguments])


def test_rows_hold_parameters_and_macs_also_of_a_class_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_gates.py").write_text(
        "import torch\n"
        "class MyGate(torch.nn.Conv2d):\n"
        "    def __init__(self, channels, kernel_size=1, **more):\n"
        "        super().__init__(channels, channels, kernel_size, **more)\n"
        "NUMBER = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    in_fresh_process, peaks = costs.extra_memories, {name: fresh.Memory(1.0, 2.0) for name in ("forward", "training")}

    def of_the_new_class(*arguments: str) -> dict[str, fresh.Memory]:
        return in_fresh_process(*arguments) if "own_gates.MyGate" in arguments else peaks

    monkeypatch.setattr(costs, "extra_memories", of_the_new_class)
    run("--channels", "32", "--names", "SqueezeExcitation,own_gates.MyGate", "--json")
    result = json.loads(capsys.readouterr().out)
    assert result["skipped"] == [] and (result["size"], result["channels"], result["batch"]) == ("6x5", 32, 2)
    convolution, excitation, own = result["rows"]
    assert [row["name"] for row in result["rows"]] == ["3x3 convolution", "SqueezeExcitation", "own_gates.MyGate"]
    assert convolution["parameters"] == 9 * 32 * 32 + 32
    assert convolution["MACs"] == 2 * 9 * 32 * 32 * 30
    assert (excitation["parameters"], excitation["MACs"]) == (2 * 32 * 2 + 2 + 32, 2 * 2 * 32 * 2)
    assert (own["parameters"], own["MACs"]) == (32 * 33, 2 * 32 * 32 * 30)
    for row in result["rows"]:
        assert row["forward_ms"] > 0 and row["training_ms"] > 0 and math.isfinite(row["training_MB"])
    for name, message in (
        ("own_gates.NUMBER", "own_gates.NUMBER is 3, expected a class derived from torch.nn.Module"),
        ("own_gates.YourGate", "own_gates.YourGate is None, expected a class"),
        ("no_package.MyGate", "no_package.MyGate: No module named 'no_package'; run this from the folder"),
    ):
        with refused(message):
            run("--names", name)


def test_backbones_are_measured_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    main(["backbones", "mobilenet_v2", "--size", "64x96", "--batch", "2", "--rounds", "1", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["skipped"] == [] and (result["size"], result["batch"]) == ("64x96", 2)
    (row,) = result["rows"]
    assert (row["name"], row["parameters"]) == ("mobilenet_v2", 3_504_872 - (1280 * 1000 + 1000) - 1280 * (320 + 2))
    published = 300_774_272 - 1280 * 1000 - 1280 * 320 * 7**2  # without the classifier and the last convolution, at 224
    assert row["MACs"] == pytest.approx(published * 2 * 64 * 96 / 224**2, rel=1e-9)
    assert 0 < row["forward_ms"] < row["training_ms"] and row["training_MB"] > row["forward_MB"] > 0


def test_backbones_without_names_are_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbones, "list_backbones", lambda: ["mobilenet_v1", "mobilenet_v2"])
    main(["backbones", "--size", "32x32"])
    title, _, heading, _, *rows, _, note = capsys.readouterr().out.splitlines()
    assert title == "1 x 3 x 32x32, without classifier" and "ms" not in heading
    assert [row.split()[1:4] for row in rows[:1]] == [["mobilenet_v1", "|", "3,206,976"]] and len(rows) == 2
    assert note == "times and memory: python -m tasks.profile backbones NAME ..."


def test_what_is_measured_is_said_before_the_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, *_: object) -> costs.Row:
        raise ValueError(f"{name} is too large")

    monkeypatch.setattr(backbones, "measure", refuse)
    main(["backbones", "resnet50,swin_t", "--json"])
    shown = capsys.readouterr()
    assert shown.err.splitlines() == ["1/2 resnet50", "2/2 swin_t"]
    assert [each["reason"] for each in json.loads(shown.out)["skipped"]] == [
        "resnet50 is too large",
        "swin_t is too large",
    ]


def test_backbones_that_do_not_run_are_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(name: str, *sizes: object) -> costs.Row:
        if name == "swin_t":
            raise RuntimeError("first line\nand the reason")
        return costs.Row(name, 1, 2, 3.0, 4.0, 5.0, 6.0)

    monkeypatch.setattr(backbones, "measure", measure)
    main(["backbones", "swin_t,resnet50"])
    lines = capsys.readouterr().out.splitlines()
    assert "float32, CPU, one thread" in lines[0] and lines[-1] == "left out: swin_t: and the reason"
    assert lines[4].split()[1::2] == ["resnet50", "1", "2", "3.0", "4.0", "5.0", "6.0"]
    with refused(r"there is no backbone 'resnet51'; did you mean .*resnet50"):
        main(["backbones", "resnet51"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    run("--channels", "32", "--names", "CBAM", "--device", "cuda", "--json")
    row = json.loads(capsys.readouterr().out)["rows"][1]
    assert row["forward_ms"] > 0 and row["training_MB"] > row["forward_MB"] > 0


def test_command_loads_nothing_heavy() -> None:
    program = "import tasks.profile.__main__, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"mmseg", "mmcv", "mmengine", "lightning", "wandb", "timm", "benchmarks"} & set(answer.stdout.split())


def test_memory_of_several_calls_in_one_process() -> None:
    memories = fresh.extra_memories("tests.tasks.memory_probe", "make_calls", "50")
    assert memories["block"].peak == pytest.approx(50, abs=2) and memories["block"].resident == pytest.approx(50, abs=2)
    assert memories["nothing"].peak == pytest.approx(0, abs=2)
    with pytest.raises(RuntimeError, match=r"failed:\n(.|\n)*ValueError"):
        fresh.extra_memories("tests.tasks.memory_probe", "make_calls", "large")["block"]


def test_a_killed_process_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"was killed \(signal 9\)"):
        fresh.extra_memories("tests.tasks.memory_probe", "kill_itself")
