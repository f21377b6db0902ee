"""Typical mistakes at the commands beside `detect` and `segment`: one line that says what to write, exit code 2."""

from importlib import import_module
from pathlib import Path

import pytest

from tasks.run import exit_codes

ROOT = Path(__file__).parents[2]
MAINS = {
    name: import_module(module).main
    for name, module in {
        "tasks": "tasks.__main__",
        "compare": "tasks.compare",
        "sweep": "tasks.sweep",
        "find": "tasks.find.__main__",
        "profile": "tasks.profile.__main__",
        "analyse": "tasks.analyse",
        "repeat": "tasks.repeat",
        "configs": "configs.__main__",
    }.items()
}
SWEEP = "sweep configs/sweeps/shapes_detect.yaml"

MISTAKES = {
    # what is missing
    "sweep": "SWEEP not given: python -m tasks.sweep SWEEP",
    "find": "expected lr or batch_size first: python -m tasks.find lr",
    "find lr": "RECIPE not given: python -m tasks.find lr RECIPE",
    "profile": ("expected attention, backbones, recipe, match or runs first: python -m tasks.profile attention"),
    "profile --runs": "RUNS not given: python -m tasks.profile runs RUNS",
    "analyse": "RUN and --images not given: python -m tasks.analyse RUN --images FOLDER",
    "repeat": "RUN not given: python -m tasks.repeat RUN",
    "configs": "FOLDER not given: python -m configs FOLDER",
    "compare --output": "--output stands without a value; expected FOLDER",
    "compare --plan 1": "--plan takes DEVIATION DIFFERENCE",
    # names
    "tasks bogus": (
        "bogus is no kind; known: commands, backbones, attention, mixers, detectors, heads, schedules, pipelines, "
        "recipes, all"
    ),
    "tasks atention": "atention is no kind; did you mean attention?",
    "tasks --lisst": "--lisst is no option; known: --help, --version",
    "compare --ouput x": "--ouput is no option; did you mean --output?",
    "compare --nothing": "--nothing is no option; --help lists all",
    "compare --w x": "--w is no option; did you mean --wandb, --wandb-report or --write?",
    "find lrr x": "lrr is no command; did you mean lr?",
    "profile attention --nmaes CBAM": "--nmaes is no option; did you mean --names?",
    "profile attention --names CBAMM": (
        "there is no operator 'CBAMM', and a class of your own is named as MODULE.CLASS; did you mean CBAM?"
    ),
    "profile backbones resnet_50": "there is no backbone 'resnet_50'; did you mean resnet50?",
    "repeat a b": "'b' is one argument too many; expected python -m tasks.repeat RUN",
    f"{SWEEP} --dryrun": "--dryrun is no option; did you mean --dry-run?",
    f"{SWEEP} --dry-run --seeds 3": "--seeds is the sweep's to give; write it into the sweep's file",
    f"{SWEEP} --dry-run --epochs 3": "--epochs is no option; here it is --trainer.max_epochs",
    # values
    "compare --resamples -1": "--resamples is '-1', expected an integer from 0 on",
    "compare --csv --json": "--json and --csv: leave one out",
    "compare --json=3": "--json takes no value: '3'",
    "find lr --steps 3 x": "--steps is '3', expected an integer from 13 on",
    "find batch_size --mode fast x": "--mode is 'fast', expected power or binsearch",
    "find batch_size --memory 0 x": "--memory is '0', expected a number of GB",
    "profile attention --size 3": "--size is '3', expected HEIGHTxWIDTH",
    "profile attention --device gpu": "--device is 'gpu', expected cpu or cuda",
    "analyse run --images x --limit 0": "--limit is '0', expected an integer from 2 on",
    "repeat run --step last": "--step is 'last', expected an integer from 0 on",
    f"{SWEEP} --dry-run --images-per-second fast": (
        "--images-per-second fast: expected a number above 0, such as 55 or mobilenet_v2_half-none=55"
    ),
    # files and folders
    "compare nosuch": "no summary.json below nosuch; expected run folders such as runs/detect/NAME",
    "compare {results} --output {picture}/a": "--output {picture}/a: Not a directory; give a folder",
    "compare {results} --write nosuch.md": (
        "--write nosuch.md: No such file or directory; expected a text with <!-- runs --> marks"
    ),
    "compare {results} --write {picture}": (
        "--write {picture}: it is no text; expected a text with <!-- runs --> marks"
    ),
    "sweep configs/sweeps": (
        "configs/sweeps is a folder; expected the file of a sweep, such as configs/sweeps/head_attentions.yaml"
    ),
    "find lr nosuch.yaml": ("there is no nosuch.yaml; give a recipe, or the folder of a run, such as runs/detect/NAME"),
    "find lr --config nosuch.yaml": (
        "there is no nosuch.yaml; give a recipe, or the folder of a run, such as runs/detect/NAME"
    ),
    "find lr --config=nosuch.yaml": "RECIPE not given: python -m tasks.find lr RECIPE",
    "profile runs nosuch": "no summary.json below nosuch; expected run folders such as runs/detect/NAME",
    "configs configs": "configs exists already; give the name of a folder that does not",
}
"""Command line: the line that it ends with."""


@pytest.mark.parametrize("command", MISTAKES)
def test_mistake(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "picture.png").write_bytes(bytes.fromhex("89504e470d0a1a0affd8"))
    files = {"results": f"{ROOT}/docs/results/quickstart", "picture": "picture.png"}
    name, *arguments = command.format(**files).split()
    with pytest.raises(SystemExit) as end:
        MAINS[name](arguments)
    assert end.value.code == exit_codes.MISTAKE
    assert capsys.readouterr() == ("", f"error: {MISTAKES[command].format(**files)}\n")
