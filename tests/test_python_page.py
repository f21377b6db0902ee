"""`docs/python.md`: its blocks run in order in one program, its commands with the classes that it shows."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tasks.running import run

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(
    r"(?:^([^\n]*)\n\n)?^```(\w+)\n(.*?)^```$", (ROOT / "docs/python.md").read_text(), flags=re.DOTALL | re.MULTILINE
)
FILES = {name[0]: text for before, _, text in BLOCKS if (name := re.findall(r"`(my_\w+\.py)`:$", before))}
PROGRAM = "\n".join(text for before, kind, text in BLOCKS if kind == "python" and not before.endswith(".py`:"))
COMMANDS = [shlex.split(text) for _, kind, text in BLOCKS if kind == "bash"]
QUICK = "--trainer.max_epochs=1 --data.num_workers=0 --data.batch_size=4 --wandb.mode=disabled --pictures.images=0"


@pytest.fixture(scope="module")
def workplace(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample data, the recipes and the files of the page."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "data").mkdir()
    (folder / "data/shapes").symlink_to(shapes)
    (folder / "configs").symlink_to(ROOT / "configs")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def python(workplace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in the folder."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{workplace}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments], cwd=workplace, env=environment, capture_output=True, text=True
    )


def summary_of(folder: Path) -> dict[str, object]:
    """What a finished run says of itself."""
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    found: dict[str, object] = json.loads((folder / "summary.json").read_text())
    return found


def test_the_page_shows_every_part() -> None:
    parts = "attention.base.Refine backbones.Backbone Detector BaseDecodeHead LabelMasks Metric"
    assert len(FILES) == len(COMMANDS) + 2 == 6, FILES.keys()
    for part in parts.split():
        assert any(part.rpartition(".")[2] in text for text in FILES.values()), part


def test_the_blocks_run_in_order(workplace: Path) -> None:
    (workplace / "page.py").write_text(PROGRAM)
    ended = python(workplace, "page.py")
    assert ended.returncode == 0, ended.stderr[-2000:]
    printed = ended.stdout
    assert "runs/detect/first" in printed and " CBAM\n" in printed
    assert len(re.findall(r"^data/shapes/coco/val2017/0000000000\d\d.jpg \(\d+, \d+\) \d+$", printed, re.M)) == 7
    assert (workplace / "found.png").stat().st_size > 1000 and (workplace / "seen.png").stat().st_size > 1000
    assert summary_of(workplace / "runs/detect/first")["epoch"] in (0, 1)
    assert len(json.loads((workplace / "runs/detect/first/run.json").read_text())["starts"]) == 2
    assert summary_of(workplace / "runs/detect/objects")["attention"] == "CBAM"
    compared = python(workplace, "-m", "tasks.compare", "runs")
    assert compared.returncode == 0 and "objects" in compared.stdout, compared.stderr


LOADS = """
import sys, tasks, numpy
for part in range(2):
    try:
        print(type(tasks.load(sys.argv[1]).predict(numpy.full((40, 60, 3), 9, numpy.uint8))).__name__)
    except ValueError as error:
        assert "If it is yours: `import my_" in str(error), error
        print("refused")
    import my_gate, my_backbone, my_head, my_data, my_detector
"""
"""A checkpoint imports nothing by itself; what it names is imported before."""

EXPECTED = {
    "gate": {"attention": "ChannelScale"},
    "own": {"backbone": "FiveConvolutions", "head": "PointwiseHead", "data": "Scenes", "classes": 9},
    "points": {"head": "CentrePoints"},
}


IN_EVERY_RUN = "own"
"""Of a backbone, a head and a data module; the attention and the detector alone are among the slow tests."""


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=name, marks=() if name == IN_EVERY_RUN else pytest.mark.slow)
        for words, name in zip(COMMANDS[:3], EXPECTED, strict=True)
    ],
)
def test_the_commands_run_with_the_files_of_the_page(words: list[str], workplace: Path) -> None:
    name, task = words[words.index("--name") + 1], words[2].removeprefix("tasks.")
    arguments = [word.replace("data/shapes", str(workplace / "data/shapes")) for word in words[3:]]
    if "--data.root" not in words:
        arguments += [f"--data.root={workplace}/data/shapes/coco", "--model.backbone.width=0.25"]
    code, output = run(task, [*arguments, *QUICK.split(), f"--runs={workplace}/runs"], PYTHONPATH=str(workplace))
    assert code == 0, output
    found = summary_of(workplace / "runs" / task / name)
    assert {key: found[key] for key in EXPECTED[name]} == EXPECTED[name]
    loaded = python(workplace, "-c", LOADS, str(workplace / "runs" / task / name / "checkpoints/best.ckpt"))
    assert loaded.returncode == 0, loaded.stderr[-2000:]
    assert loaded.stdout.split() == ["refused", "LabelMap" if task == "segment" else "FoundObjects"]


def test_a_metric_of_ones_own(workplace: Path) -> None:
    ended = python(workplace, *COMMANDS[3][1:], *QUICK.split(), "--model.backbone.width=0.25")
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = summary_of(workplace / "runs/detect/counts")
    assert isinstance(found["val/count_error"], float) and "val/mAP" in found
