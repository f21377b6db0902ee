"""Help of the command lines: short, complete, and of options that can be typed as they are printed."""

import re
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import tasks.__main__ as overview
from configs.parts import part_names
from tasks.argument_order import in_order
from tasks.run import exit_codes
from tests.tasks.conftest import MAINS, refused

ROOT = Path(__file__).parents[2]
COMMANDS = ("fit", "validate", "test", "predict")
Answer = Callable[..., str]


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Answer:
    """What a command line prints that asks for something else than a run."""

    def ask(task: str, *arguments: str) -> str:
        try:
            MAINS[task](list(arguments))
        except SystemExit as end:
            assert not end.code, capsys.readouterr().err
        return capsys.readouterr().out

    return ask


@pytest.mark.parametrize("task", MAINS)
def test_a_page_is_a_screen(task: str, answer: Answer) -> None:
    for arguments in (("--help",), *((command, "--help") for command in COMMANDS)):
        lines = answer(task, *arguments).splitlines()
        assert 5 < len(lines) <= 45 and max(map(len, lines)) <= 100, arguments
    assert len(answer(task, "fit", "--help", "all").splitlines()) > 200
    assert answer(task, "--help", "all") == answer(task, "fit", "--help", "all")


def test_every_hint_can_be_typed(answer: Answer) -> None:
    """Each --OPTION.help that the first pages name is a page with options in full, and so on from these."""
    asked: set[str] = set()
    open_hints = {"--data.help COCO", "--model.backbone.help ResNet", "--model.detector.help FCOS"}
    while open_hints:
        hint = open_hints.pop()
        asked.add(hint)
        page = answer("detect", "fit", *hint.split())
        assert len(page.splitlines()) > 1
        open_hints |= set(re.findall(r"--[\w.]+\.help(?: [\w.]*\w)?", page.replace(" lists them", ""))) - asked
        prefix = hint.partition(".help")[0]
        assert all(option.startswith(prefix) for option in re.findall(r"^  (--[\w.]+)", page, re.MULTILINE))
    assert len(asked) > 10


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("--data.pipeline.help FixedSize", "--data.pipeline.height 320"),
        ("--model.backbone.attention.help", "  CBAM "),
        ("--model.backbone.attention.help CBAM", "--model.backbone.attention.reduction 16"),
        ("--model.backbone.help", "  backbones.elsa_swin_t "),
        ("--model.backbone.help backbones.elsa_swin_t", "--model.backbone.weights null"),
        ("--model.backbone.help backbones.timm", "--model.backbone.name ..."),
        ("--model.backbone.help resnet50_cbam", "a file of options for backbones.ResNet"),
        ("--model.lr_schedule.help Cosine", "--model.lr_schedule.warmup_steps 0"),
        ("--trainer.help", "--trainer.max_epochs 12"),
        ("--name.help", "(text or null)"),
    ],
)
def test_page_of_an_option(question: str, words: str, answer: Answer) -> None:
    assert words in answer("detect", "fit", *question.split())


@pytest.mark.parametrize(
    ("option", "example", "not_chosen"),
    [
        ("writer", "DetectionWriter", "PredictionWriter"),
        ("pictures", "DetectionPictures", "Pictures"),
        ("data", "COCO", "ADE20K"),
        ("data", "COCO", "LabelMasks"),
        ("model.optimizer", "SGD", "Optimizer"),
        ("trainer.logger", "CSVLogger", "DummyLogger"),
        ("trainer.callbacks", "EarlyStopping", "Callback"),
    ],
)
def test_lists_leave_out_what_cannot_be_chosen(option: str, example: str, not_chosen: str, answer: Answer) -> None:
    head, _, *rows = answer("detect", "fit", f"--{option}.help").splitlines()
    assert head.endswith(f"; --{option}.help {example} explains one:")
    named = {row.split()[0] for row in rows if row.startswith("  ") and row[2:3].strip()}
    assert example in named and not_chosen not in named


def test_unknown_option_or_class(capsys: pytest.CaptureFixture[str]) -> None:
    for question, line in (
        ("--completion bash", "--completion stands without a command: python -m tasks.detect --completion bash"),
        ("--model.backbone.atention.help", "--model.backbone.atention is no option; did you mean --model.backbone?"),
        ("--model.backbone.help RestNet", "--model.backbone RestNet cannot be found; did you mean ResNet?"),
        ("--help trainer", "--help trainer: expected nothing or `all`; options of a group: --trainer.help"),
    ):
        with pytest.raises(SystemExit) as end:
            MAINS["detect"](["fit", *question.split()])
        assert end.value.code == exit_codes.MISTAKE
        assert capsys.readouterr().err == f"error: {line}\n"


def test_help_behind_a_recipe_shows_its_values(
    answer: Answer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    recipe = ("--config", "configs/detect/quickstart.yaml")
    for question, line in (
        ("--model.optimizer.lr.help", "  --model.optimizer.lr 0.002"),
        ("--model.backbone.width.help", "  --model.backbone.width 0.5"),
        ("--trainer.max_epochs.help", "  --trainer.max_epochs 10"),
    ):
        assert answer("detect", "fit", *recipe, question).splitlines()[0] == line
    page = answer("detect", "fit", *recipe, "--help")
    for option, value in (("model.optimizer", "AdamW"), ("model.optimizer.lr", "0.002"), ("model.detector", "FCOS")):
        assert re.search(rf"^  --{option} {value} ", page, re.MULTILINE)
    assert re.search("^  --model.optimizer SGD ", answer("detect", "fit", "--help"), re.MULTILINE)
    with refused("^error: --config: no file nosuch.yaml$"):
        MAINS["detect"](["fit", "--config", "nosuch.yaml", "--help"])


def test_version(answer: Answer) -> None:
    for arguments in (("--version",), ("fit", "--version")):
        assert re.fullmatch(
            r"attndense \S+ \(torch \S+, lightning \S+, Python [\d.]+\)\n", answer("detect", *arguments)
        )


def test_options_win_over_files_wherever_they_stand(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_order(["fit", "--name", "a", "--config", "b.yaml", "--x=1", "--config=c.yaml"]) == [
        *("fit", "--config", "b.yaml", "--config=c.yaml", "--name", "a", "--x=1")
    ]
    monkeypatch.chdir(ROOT)
    before = ("--data.root", "elsewhere", "--trainer.max_epochs=3")
    shown = answer("detect", "fit", *before, "--config", "configs/detect/quickstart.yaml", "--print_config")
    config = yaml.safe_load(shown)
    assert (config["data"]["init_args"]["root"], config["trainer"]["max_epochs"]) == ("elsewhere", 3)


def test_null_and_options_within_a_dictionary(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    head = "--model.segmentor.decode_head"
    given = (f"{head}.norm_cfg={{type: BN, eps: 1}}", f"{head}.norm_cfg.eps", "1e-4", f"{head}.act_cfg", "null")
    shown = answer("segment", "fit", "--config", "configs/segment/quickstart.yaml", *given, "--print_config")
    config = yaml.safe_load(shown)["model"]["segmentor"]["init_args"]["decode_head"]
    assert config["norm_cfg"] == {"type": "BN", "eps": 1e-4} and config["act_cfg"] is None
    assert config["type"] == "UPerHead"  # what stood beside it stays


def test_overview(capsys: pytest.CaptureFixture[str]) -> None:
    overview.main(["attention", "recipes", "commands"])
    shown = capsys.readouterr().out
    for words in ("python -m tasks.detect ", "  CBAM ", "detect/retinanet_1x", "python -m datamodules.shapes "):
        assert words in shown
    assert max(map(len, shown.splitlines())) <= 100
    with refused("^error: colours is no kind; known: commands, backbones"):
        overview.main(["colours"])


@pytest.mark.skipif(not find_spec("shtab"), reason="the extra completion is not installed")
def test_completion_in_bash(answer: Answer, tmp_path: Path) -> None:
    (tmp_path / "script").write_text(answer("detect", "--completion", "bash"))
    ask = (
        'source ./script; try() { COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); COMPREPLY=(); '
        '_shtab_attndense_detect "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"; '
        'echo "${COMPREPLY[@]}"; }\n'
        "try attndense-detect fi\ntry attndense-detect fit --data.batch_s\n"
        "try attndense-detect fit --model.backbone.attention CB\ntry attndense-detect fit --wandb.mode onl\n"
    )
    shown = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == ["fit", "--data.batch_size", "CBAM", "online"]


def test_names_of_parts() -> None:
    assert "resnet50_cbam" in part_names("backbones") and part_names("") == []
