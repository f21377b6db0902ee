"""A sweep: its runs from one list, as a loop, a Slurm array and a W&B sweep; what they cost."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from tasks import sweep, sweep_cost
from tasks.errors import TaskError
from tasks.recipe_parts import with_files
from tasks.run import exit_codes
from tasks.run.record import RunRecord, read_record
from tasks.sweep_list import read_sweep
from tests.tasks.building import build_task
from tests.tasks.conftest import refused
from tests.tasks.running import ROOT

CONTENT = {
    "task": "detect",
    "config": str(ROOT / "configs/detect/quickstart.yaml"),
    "backbones": ["mobilenet_v2_half_ca", "backbones.swin_t"],
    "seeds": [7, 3],
    "options": ["--data.num_workers=0"],
}
NAMES = [
    f"tiny/{backbone}-seed{seed}" for seed in (7, 3) for backbone in ("mobilenet_v2_half_ca", "swin_t")
]  # every backbone before the next seed


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(CONTENT))
    return path


def command(name: str, runs: Path, *more: str) -> list[str]:
    """What one run of the sweep is, written out."""
    backbone, seed = name.removeprefix("tiny/").split("-seed")
    return [
        *("fit", "--config", "configs/detect/quickstart.yaml", "--resume", "auto"),
        *("--model.backbone", {"swin_t": "backbones.swin_t"}.get(backbone, backbone), "--seed_everything", seed),
        *("--name", name, "--runs", str(runs), "--wandb.group", f"tiny/{backbone}", "--data.num_workers=0", *more),
    ]


class FakeRuns:
    """Stands in for the processes of runs: notes their commands, and leaves a record as a run does.

    Args:
        codes: Exit codes of the runs to come; 0 behind the last.
    """

    def __init__(self, *codes: int) -> None:
        self.codes, self.commands = list(codes), []

    def __call__(self, arguments: list[str]) -> int:
        code = self.codes.pop(0) if self.codes else 0
        assert arguments[:3] == [sys.executable, "-m", "tasks.detect"]
        self.commands.append(arguments[3:])
        values = dict(pairwise(arguments))
        folder = Path(values["--runs"]) / "detect" / values["--name"]
        folder.mkdir(parents=True, exist_ok=True)
        status = "finished" if code == 0 else "stopped"
        RunRecord(command=with_files(arguments[3:]), status=status).write(folder)
        return code


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeRuns]:
    def start(*codes: int) -> FakeRuns:
        runs = FakeRuns(*codes)
        monkeypatch.setattr(sweep, "run_to_end", runs)
        return runs

    return start


def test_loop_skips_what_is_finished_and_goes_on_with_the_rest(
    file: Path, tmp_path: Path, fake: Callable[..., FakeRuns], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    arguments = [str(file), "--runs", str(runs), "--trainer.max_epochs", "2"]
    first = fake(0, exit_codes.NUMBERS, exit_codes.TERMINATED)
    with pytest.raises(SystemExit) as stop:
        sweep.main(arguments)
    assert stop.value.code == exit_codes.TERMINATED
    assert first.commands == [command(name, runs, "--trainer.max_epochs", "2") for name in NAMES[:3]]
    assert "swin" not in capsys.readouterr().out.splitlines()[-1] and read_record(runs / "detect" / NAMES[3]) is None
    again = fake(exit_codes.NUMBERS)
    with pytest.raises(SystemExit) as stop:
        sweep.main(arguments)
    assert stop.value.code == exit_codes.NUMBERS  # it is not forgotten behind two runs that end well
    assert again.commands == [command(name, runs, "--trainer.max_epochs", "2") for name in NAMES[1:]]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"[1/4] {NAMES[0]} is finished"
    shown = shlex.join(command(NAMES[1], runs, "--trainer.max_epochs", "2"))
    assert lines[1] == f"[2/4] python -m tasks.detect {shown}"
    assert lines[-1] == f"python -m tasks.compare {runs}/detect/tiny"
    last = fake()
    sweep.main(arguments)
    assert last.commands == [command(NAMES[1], runs, "--trainer.max_epochs", "2")]
    other = fake()
    sweep.main([*arguments[:-1], "3"])  # a run of another length decides itself whether it is finished
    assert other.commands == [command(name, runs, "--trainer.max_epochs", "3") for name in NAMES]


def test_a_mistake_ends_the_loop(file: Path, tmp_path: Path, fake: Callable[..., FakeRuns]) -> None:
    runs = fake(exit_codes.MISTAKE)
    with pytest.raises(SystemExit) as stop:
        sweep.main([str(file), "--runs", str(tmp_path)])
    assert stop.value.code == exit_codes.MISTAKE and len(runs.commands) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("ends", ["stopped", "finished"])
def test_stop_signals_reach_the_run_and_end_the_loop(number: int, ends: str) -> None:
    """The run saves in its own time, and nothing is started behind it."""
    code = exit_codes.of_signal(number) if ends == "stopped" else 0
    run = (
        "import os, signal, sys, time; from pathlib import Path\n"
        f"signal.signal({number}, lambda *_: (time.sleep(0.3), print('saved', flush=True), os._exit({code})))\n"
        f"os.kill(os.getppid(), {number}); time.sleep(20)"
    )
    loop = f"import sys; from tasks.run.child import run_to_end; sys.exit(run_to_end([sys.executable, '-c', {run!r}]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", loop], capture_output=True, text=True, timeout=300, env=environment)
    assert (done.returncode, done.stdout) == (exit_codes.of_signal(number), "saved\n"), done.stderr


def test_dry_run_prints_every_command_and_runs_none(
    file: Path, tmp_path: Path, fake: Callable[..., FakeRuns], capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = fake()
    sweep.main([str(file), "--dry-run", "--runs", str(tmp_path), "--data.root", "a folder"])
    commands, cost = capsys.readouterr().out.split("\n\n")
    assert [shlex.split(line) for line in commands.splitlines()] == [
        ["python", "-m", "tasks.detect", *command(name, tmp_path, "--data.root", "a folder")] for name in NAMES
    ]
    rows = [line.split(maxsplit=2) for line in cost.splitlines()]
    assert rows[:-1] == [[name.removeprefix("tiny/"), "new", "not measured"] for name in NAMES]
    assert cost.splitlines()[-1].startswith("4 runs; 4 runs not measured: --images-per-second NUMBER")
    assert not nothing.commands


def leave_behind(folder: Path, status: str, processes: int, *rates: float) -> None:
    """What a run leaves: record, table and summary."""
    folder.mkdir(parents=True)
    RunRecord(status=status).write(folder)
    rows = [f"{step},{rate}" for step, rate in enumerate(rates)]
    (folder / "metrics.csv").write_text("\n".join(["step,perf/images_per_second", *rows, "9,"]) + "\n")
    facts = {"task": "detect", "headline": "val/mAP", "direction": "max", "head": "FCOS", "processes": processes}
    (folder / "summary.json").write_text(json.dumps(facts))


def test_cost_comes_from_measured_rates(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep_cost, "images_of_a_run", lambda sweep, more: 36_000)
    runs = tmp_path / "runs"
    leave_behind(runs / "detect" / NAMES[0], "finished", 4, 2.0, 48.0, 40.0)  # 10 a GPU
    (runs / "detect" / NAMES[1]).mkdir()  # it has ended before anything was scored
    sweep.main([str(file), "--dry-run", "--runs", str(runs)])
    rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.split("\n\n")[1].splitlines()]
    measured = "10 images/s and GPU, 1 GPU hours"
    assert rows[:4] == [
        ["mobilenet_v2_half_ca-seed7", "finished", measured],
        ["swin_t-seed7", "new", "not measured"],
        ["mobilenet_v2_half_ca-seed3", "new", measured],
        ["swin_t-seed3", "new", "not measured"],
    ]
    last = "4 runs of 36,000 images; what is not finished: 1 GPU hours; 2 runs not measured: "
    assert " ".join(rows[4]).startswith(last)
    given = ["--images-per-second", "50", "swin_t=2.5", "--only", "swin_t-seed3", "mobilenet_v2_half_ca-seed7"]
    sweep.main([str(file), "--dry-run", "--runs", str(runs), *given])
    lines = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines[:2]] == [
        "2.5 images/s and GPU, 4 GPU hours",
        "50 images/s and GPU, 0.2 GPU hours",
    ]
    assert lines[2] == "2 runs of 36,000 images; what is not finished: 4 GPU hours"


def test_images_of_a_run(file: Path, shapes: Path) -> None:
    """Epochs times the images that training takes, or steps times those that the recipe's rate is meant for."""
    chosen, root = read_sweep(file), f"--data.root={shapes / 'coco'}"
    assert sweep_cost.images_of_a_run(chosen, [root, "--data.max_images=9", "--trainer.max_epochs=4000"]) == 36_000
    steps = ["--trainer.max_steps=900", "--trainer.max_epochs=-1", "--data.root=none"]
    assert sweep_cost.images_of_a_run(chosen, steps) == 7_200
    with pytest.raises(TaskError, match="says neither how many epochs nor how many steps"):
        sweep_cost.images_of_a_run(chosen, ["--trainer.max_epochs=-1", "--trainer.max_time=00:01:00:00"])


def test_slurm_array(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, runs = tmp_path / "tiny.txt", tmp_path / "runs"
    sweep.main([str(file), "--slurm", str(lines), "--runs", str(runs), "--data.root", "COCO"])
    words = shlex.split(capsys.readouterr().out)
    script, behind = (
        "configs/slurm/array_sweep.sbatch",
        [str(lines), "detect", "--config", "configs/detect/quickstart.yaml"],
    )
    assert words == ["sbatch", "--job-name=tiny", "--array=1-4", script, *behind]
    for number, name in enumerate(NAMES, 1):
        done = run_task(script, behind, number, tmp_path)
        assert done == ["-m", "tasks.detect", *moved(command(name, runs, "--data.root", "COCO"))]
    sweep.main([str(file), "--slurm", str(lines), "--only", "swin_t-seed3"])
    assert "--array=1-1 " in capsys.readouterr().out and len(lines.read_text().splitlines()) == 1


def run_task(script: str, behind: list[str], number: int, folder: Path) -> list[str]:
    """What a task of the array runs: the script itself, with an srun that prints its arguments."""
    srun = folder / "bin" / "srun"
    srun.parent.mkdir(exist_ok=True)
    srun.write_text('#!/bin/bash\nprintf "%s\\n" "${@:3}"\n')
    srun.chmod(0o755)
    paths = f"{srun.parent}:{os.environ['PATH']}"
    environment = {"SLURM_ARRAY_TASK_ID": str(number), "PATH": paths}
    return subprocess.run(["bash", script, *behind], env=environment, capture_output=True, text=True).stdout.split()


def moved(arguments: list[str]) -> list[str]:
    """The same arguments in the order of the script, which puts `--resume auto` first."""
    config, resume, rest = arguments[1:3], arguments[3:5], arguments[5:]
    return ["fit", *resume, *config, *rest]


def test_wandb_sweep(
    file: Path, tmp_path: Path, fake: Callable[..., FakeRuns], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every value of the file, put into its command as W&B's agent does, is one run of the sweep."""
    written, runs = tmp_path / "wandb.yaml", tmp_path / "runs"
    sweep.main([str(file), "--wandb", str(written), "--runs", str(runs), "--data.root", "COCO"])
    assert capsys.readouterr().out == f"wandb sweep {written}\n"
    content = yaml.safe_load(written.read_text())
    assert (content["name"], content["method"]) == ("tiny", "grid")
    (parameter,) = content["parameters"]
    assert content["parameters"][parameter]["values"] == [name.removeprefix("tiny/") for name in NAMES]
    for name in NAMES:
        value = f"--{parameter}={name.removeprefix('tiny/')}"
        filled = {"${env}": "env", "${interpreter}": "python", "${program}": content["program"], "${args}": value}
        words = [filled.get(word, word) for word in content["command"]]
        assert words[:4] == ["env", "python", "-m", "tasks.sweep"]
        started = fake()
        sweep.main(words[4:])
        assert started.commands == [command(name, runs, "--data.root", "COCO")]


@pytest.mark.parametrize(
    ("change", "more", "words"),
    [
        ({"task": "depth"}, [], "task is 'depth', expected detect or segment"),
        ({"config": "no.yaml"}, [], "config: no file "),
        ({"backbones": []}, [], "backbones is [], expected a list of names"),
        ({"backbones": ["resnet50_cbm"]}, [], "no backbone resnet50_cbm in configs/backbones; did you mean "),
        ({"backbones": ["swin_t", "backbones.swin_t"]}, [], "backbones has swin_t twice"),
        ({"seeds": [1, "2"]}, [], "seeds is [1, '2'], expected a list of integers"),
        ({"seeds": [1, 1]}, [], "seeds has 1 twice"),
        ({"seed": [1]}, [], "seed is no key of a sweep; did you mean seeds?"),
        ({"options": ["--name=x"]}, [], "--name is the sweep's to give"),
        ({"variants": ["a"]}, [], "variants is ['a'], expected names, each with a list of options"),
        ({"variants": {"a b": []}}, [], "variants has 'a b', expected a name of letters, digits and _ for a folder"),
        ({"variants": {"a": "--x"}}, [], "the variant a is '--x', expected a list of options, [] for none"),
        ({"variants": {"a": ["--model.backbone=swin_t"]}}, [], "--model.backbone is the sweep's to give"),
        (
            {"variants": {"a": [], "b": ["--data.root=a b"]}},
            ["--slurm", "list.txt"],
            "'--data.root=a b' cannot stand in a line",
        ),
        ({}, ["--seed_everything", "4"], "--seed_everything is the sweep's to give"),
        ({}, ["--dryrun"], "--dryrun is no option; did you mean --dry-run?"),
        (
            {},
            ["--dry-run", "--trainer.max_epoks", "2"],
            "--trainer.max_epoks is no option; did you mean --trainer.max_ep",
        ),
        ({}, ["--seeds", "[1,2]"], "--seeds is the sweep's to give; write it into the sweep's file"),
        ({"options": ["--data.batchsize=2"]}, [], "--data.batchsize is no option of datamodules.COCO; did you mean"),
        ({"variants": {"a": [], "b": ["--model.backbone.depth=half"]}}, [], "--model.backbone.depth is no option of"),
        ({}, ["--only", "swin_t-seed1"], "--only swin_t-seed1 is no run of tiny; did you mean swin_t-seed"),
        ({}, ["--dry-run", "--images-per-second", "resnet=3"], "resnet is not in the sweep"),
        ({}, ["--dry-run", "--images-per-second", "0"], "expected a number above 0"),
        ({}, ["--slurm", "list.txt", "--data.root", "a b"], "'a b' cannot stand in a line of list.txt"),
        ({}, ["--wandb", "no/folder.yaml"], "cannot write no/folder.yaml"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(
    file: Path, fake: Callable[..., FakeRuns], change: dict, more: list[str], words: str
) -> None:
    nothing = fake()
    file.write_text(yaml.safe_dump({**CONTENT, **change}))
    with refused(re.escape(words)):
        sweep.main([str(file), *more])
    assert not nothing.commands


@pytest.mark.parametrize(("text", "words"), [("[1]", "is no sweep"), ("a: [", "is no yaml"), (None, "no file ")])
def test_what_is_no_sweep(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "sweep.yaml"
    if text is not None:
        path.write_text(text)
    with refused(words):
        sweep.main([str(path)])


def test_variants_of_the_recipe(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every backbone under every variant before the next seed; rates and lengths are those of a variant."""
    variants = {"fcos": ["--model.detector=FCOS"], "long": ["--trainer.max_epochs=20"]}
    file.write_text(yaml.safe_dump(CONTENT | {"variants": variants}))
    monkeypatch.setattr(sweep_cost, "images_of_a_run", lambda _, more: 7200 if variants["long"][0] in more else 3600)
    arguments = [str(file), "--dry-run", "--runs", str(tmp_path), "--data.root=R"]
    sweep.main([*arguments, "--images-per-second", "4", "swin_t-long=2"])
    commands, cost = capsys.readouterr().out.split("\n\n")
    settings = [f"{backbone}-{name}" for backbone in ("mobilenet_v2_half_ca", "swin_t") for name in variants]
    labels = [f"{setting}-seed{seed}" for seed in (7, 3) for setting in settings]
    for line, label in zip(commands.splitlines(), labels, strict=True):
        backbone, variant, seed = label.split("-")
        one = command(f"tiny/{backbone}-{seed}", tmp_path, *variants[variant], "--data.root=R")
        setting = label.rpartition("-")[0]
        named = {f"tiny/{backbone}-{seed}": f"tiny/{label}", f"tiny/{backbone}": f"tiny/{setting}"}
        expected = [named.get(word, word) for word in one]
        assert shlex.split(line) == ["python", "-m", "tasks.detect", *expected]
    rows = [line.split() for line in cost.splitlines()]
    assert [row[0] for row in rows[:-1]] == labels
    assert [row[-3] for row in rows[:4]] == ["0.25", "0.5", "0.25", "1"]
    assert cost.splitlines()[-1] == "8 runs of 3,600 or 7,200 images; what is not finished: 4 GPU hours"


SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_sweeps_of_the_package_are_read(path: Path) -> None:
    assert read_sweep(path).runs()
    assert re.search(rf"python -m tasks.sweep configs/sweeps/{path.name}\s", path.read_text())


@pytest.mark.slow
@pytest.mark.usefixtures("without_initialisation")
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_settings_of_the_package_build(path: Path) -> None:
    """Every command of a sweep up to its seed and folder; no two settings are one network."""
    chosen, built = read_sweep(path), set()
    for setting in chosen.settings():
        options = [f"--model.backbone={setting.backbone}", *setting.options, "--data.class_names=[a, b, c]"]
        options += ["--data.category_ids=[1, 2, 3]", "--data.images=none"] if chosen.task == "detect" else []
        options.append("--host.start=scratch")
        model = build_task(ROOT / chosen.config, Path("none"), *options, device="meta").model
        built.add(repr(model))
    assert len(built) == len(chosen.settings())


@pytest.mark.slow
def test_two_runs_on_the_sample_data(
    file: Path, tmp_path: Path, shapes: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first is stopped in its middle; the same command continues it, runs the second, and a third finds nothing."""
    file.write_text(yaml.safe_dump(CONTENT | {"backbones": ["mobilenet_v2_half_ca"], "seeds": [5, 6]}))
    runs = tmp_path / "runs"
    small = [f"--data.root={shapes / 'coco'}", "--data.batch_size=4", "--data.max_images=12", "--trainer.max_epochs=3"]
    quiet = ["--wandb.mode=disabled", "--pictures.images=0", "--trainer.log_every_n_steps=1"]
    arguments = [str(file), "--runs", str(runs), *small, *quiet]
    loop = subprocess.Popen(
        [sys.executable, "-m", "tasks.sweep", *arguments], stdout=subprocess.PIPE, text=True, stderr=subprocess.STDOUT
    )
    output = []
    for line in loop.stdout:
        output.append(line)
        if "epoch 0 step 2" in line:
            loop.send_signal(signal.SIGTERM)
    assert loop.wait() == exit_codes.TERMINATED, "".join(output)
    one, two = (runs / "detect" / "tiny" / f"mobilenet_v2_half_ca-seed{seed}" for seed in (5, 6))
    assert read_record(one).status == "stopped" and not two.exists()
    sweep.main(arguments)
    assert "going on with" in capfd.readouterr().err
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, two)]
    assert [summary["seed"] for summary in summaries] == [5, 6]
    assert [read_record(folder).step for folder in (one, two)] == [9, 9]
    sweep.main(arguments)
    assert [line.rpartition(" is ")[2] for line in capfd.readouterr().out.splitlines()[:-1]] == ["finished"] * 2
    sweep.main([*arguments, "--dry-run"])
    assert "2 runs of 36 images; what is not finished: 0 GPU hours" in capfd.readouterr().out
