"""A command that is wrong ends in one line that says what is, with the nearest names; the usage page is for --help."""

import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lightning.pytorch.utilities import rank_zero_info

from datamodules import DataError
from tasks import detect
from tasks.class_options import own_defaults
from tasks.cli import VisionCLI
from tasks.command_line import QUIET, QUIET_LOG, helpful_output, run
from tasks.errors import MachineError, NumbersError, TaskError
from tasks.refused_options import OptionParser
from tasks.run.stop import StopRun
from tests.tasks import running

ROOT = Path(__file__).parents[2]
RECIPE = f"--config={ROOT}/configs/detect/quickstart.yaml"
CALLBACK = "--trainer.callbacks+=EarlyStopping"


class Built(Exception):
    """The command line has built its parser."""


@pytest.fixture(scope="module")
def parser() -> Iterator[OptionParser]:
    """The parser of `python -m tasks.detect`."""

    def hand_over(cli: VisionCLI, parser: OptionParser, args: object) -> None:
        raise Built(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VisionCLI, "parse_arguments", hand_over)
        patch.setattr("tasks.detect.run", lambda cli: cli())
        with pytest.raises(Built) as built:
            detect.main([])
    with own_defaults():
        yield built.value.args[0]


@pytest.fixture
def refusal(parser: OptionParser) -> Callable[..., str]:
    """The line with which arguments are refused."""

    def refuse(*arguments: str) -> str:
        with pytest.raises(TaskError) as refused:
            parser.parse_args(list(arguments))
        line = str(refused.value)
        assert "\n" not in line and len(line) < 500
        return line

    return refuse


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--trainer.max_epcohs=1", "--trainer.max_epcohs is no option; did you mean --trainer.max_epochs?"),
        ("--max_epochs=1", "--max_epochs is no option; did you mean --trainer.max_epochs?"),
        ("--batch_size=1", "--batch_size is no option; did you mean --data.batch_size?"),
        ("--lr=1", "--lr is no option; did you mean --model.optimizer.lr?"),
        ("--print_confg", "--print_confg is no option; did you mean --print_config?"),
        ("-x", "-x is no option; --help all lists all"),
        (
            "extra",
            "'extra' stands alone; an option is written --NAME VALUE or --NAME=VALUE, and a list without spaces: [3,4]",
        ),
        ("--name", "--name stands without a value; expected text or null"),
        (
            "--data.pipline=x",
            "--data.pipline is no option of datamodules.COCO; did you mean --data.pipeline?",
        ),
        (
            "--data.pipeline.hight=3",
            "--data.pipeline.hight is no option of datamodules.FixedSize; did you mean --data.pipeline.height?",
        ),
        (
            "--model.backbone.attention.reductin=3",
            "--model.backbone.attention.reductin is no option of attention.CoordinateAttention; did you mean "
            "--model.backbone.attention.reduction?",
        ),
        (
            "--model.backbone.depht=1",
            "--model.backbone.depht is no option of backbones.MobileNetV2; known: width, attention, "
            "attention_stages, attention_blocks, attention_between, between_stages, mixer, mixer_stages, "
            "expansion_mixer, expansion_stages, output_stride, dilation, last_conv, tap_expansion, frozen_stages, "
            "norms, checkpointing, weights",
        ),
        ("--model.backbone=RestNet", "--model.backbone RestNet cannot be found; did you mean ResNet?"),
        (
            "--model.backbone=backbones.resnet5",
            "--model.backbone backbones.resnet5 cannot be found (module 'backbones' has no attribute 'resnet5'); did "
            "you mean backbones.resnet50 or ResNet?",
        ),
        (
            "--model.backbone=my.module.Net",
            "--model.backbone my.module.Net cannot be found (No module named 'my'); a module of your own is looked for "
            "in the folder where you are and in those of PYTHONPATH",
        ),
        (
            "--model.backbone=torch.nn.Linear",
            "--model.backbone torch.nn.Linear is no Backbone; --model.backbone.help lists all",
        ),
        (
            "--model.backbone.attention=CBMA",
            "--model.backbone.attention CBMA cannot be found; did you mean CBAM?",
        ),
        ("--model.optimizer=AdmW", "--model.optimizer AdmW cannot be found; did you mean AdamW?"),
        ("--model.lr_schedule=Cosin", "--model.lr_schedule Cosin cannot be found; did you mean Cosine?"),
        ("--data=COOC", "--data COOC cannot be found; did you mean COCO?"),
        (
            "--data.pipeline=x",
            "--data.pipeline x cannot be found; known: ShorterSide, MultiScaleCrop, FixedSize, SSDCrop",
        ),
        (
            "--trainer.callbacks+=EarlyStoping",
            "--trainer.callbacks EarlyStoping cannot be found; did you mean EarlyStopping?",
        ),
        (
            CALLBACK,
            "lightning.pytorch.callbacks.EarlyStopping needs --trainer.callbacks.monitor",
        ),
        (
            "--trainer.logger.save_dir=x",
            "--trainer.logger needs its class before the options of the class; known: ",
        ),
        ("--model.backbone.help=RestNet", "--model.backbone RestNet cannot be found; did you mean ResNet?"),
        ("--data.batch_size=two", "--data.batch_size is 'two', expected an integer"),
        ("--trainer.max_epochs=1.5", "--trainer.max_epochs is '1.5', expected an integer or null"),
        (
            "--wandb.mode=onlin",
            "--wandb.mode is 'onlin', expected auto, online, offline or disabled; did you mean online?",
        ),
        (
            "--trainer.precision=15",
            "--trainer.precision is '15', expected bf16-mixed, 16-mixed, 32-true or 64-true",
        ),
        ("--model.class_names=[a]", "--model.class_names comes from the data; give --data.class_names"),
        ("--trainer={max_epochs: ten}", "--trainer.max_epochs is 'ten', expected an integer or null"),
        (
            "--trainer.max_epochs 3",
            "'--trainer.max_epochs 3' is one word; a value stands apart from its option, or behind =: "
            "--trainer.max_epochs=3",
        ),
        (
            "--data.batch_size 4",
            "'--data.batch_size 4' is one word; a value stands apart from its option, or behind =: ",
        ),
        ("--model.backbone.attention=[CBAM, null, Fooo]", "--model.backbone.attention Fooo cannot be found; "),
        ("--config=nofile.yaml", "--config: no file nofile.yaml"),
    ],
)
def test_option(option: str, line: str, refusal: Callable[..., str]) -> None:
    assert refusal("fit", RECIPE, option).startswith(line)


def test_option_of_another_class(refusal: Callable[..., str]) -> None:
    line = refusal("fit", RECIPE, "--model.backbone=ResNet", "--model.backbone.depth=50", "--model.backbone.width=0.5")
    assert line.startswith("--model.backbone.width is no option of backbones.ResNet; --help all lists all")
    assert refusal("fit", RECIPE, CALLBACK, "--trainer.callbacks.monitr=x") == (
        "--trainer.callbacks.monitr is no option of lightning.pytorch.callbacks.EarlyStopping; did you mean "
        "--trainer.callbacks.monitor?"
    )


def test_command(refusal: Callable[..., str]) -> None:
    assert refusal("fti") == "fti is no command; known: fit, validate, test, predict"
    assert refusal("valdate") == "valdate is no command; did you mean validate?"
    assert refusal() == "expected a command first, fit, validate, test or predict: fit --config configs/.../NAME.yaml"
    assert refusal("--trainer.max_epochs=2", "fit") == (
        "--trainer.max_epochs belongs behind the command: fit --trainer.max_epochs"
    )
    assert refusal("fit") == (
        "--model.backbone, --model.detector and --data not given; a recipe gives them: --config configs/.../NAME.yaml"
    )


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            b"model:\n  backbone:\n    class_path: backbones.ResNet\n    init_args: {depht: 50}\n",
            "{file}: --model.backbone.depht is no option of backbones.ResNet; did you mean --model.backbone.depth?",
        ),
        (
            b"model:\n  backbone:\n    class_path: backbones.RestNet\n",
            "{file}: --model.backbone backbones.RestNet cannot be found (module 'backbones' has no attribute "
            "'RestNet'); did you mean ResNet?",
        ),
        (b"trainr:\n  max_epochs: 2\n", "--trainr.max_epochs is no option; did you mean --trainer.max_epochs?"),
        (b"hello\n", "{file}: expected options such as `trainer: {max_epochs: 12}`, found 'hello'"),
        (b"", "{file}: expected options such as `trainer: {max_epochs: 12}`, found ''"),
        (
            b"model: [1, 2\nname: b\n",
            "{file}: no valid yaml: while parsing a flow sequence at line 1, column 8 did not",
        ),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "{file} is no text; --config expects a yaml file such as those in configs"),
    ],
)
def test_config_file(content: bytes, line: str, refusal: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    assert refusal("fit", RECIPE, f"--config={file}").startswith(line.replace("{file}", str(file)))


def test_missing_files_are_told_by_their_neighbours(refusal: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").touch()
    assert refusal("fit", f"--config={tmp_path}/quickstrat.yaml") == (
        f"--config: no file {tmp_path}/quickstrat.yaml; did you mean {tmp_path}/quickstart.yaml?"
    )
    assert refusal("fit", RECIPE, f"--model.backbone={tmp_path}/quikstart.yaml") == (
        f"--model.backbone: no file {tmp_path}/quikstart.yaml; did you mean {tmp_path}/quickstart.yaml?"
    )


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--data.batch_size=0"], "error: batch_size is 0, expected at least 1"),
        pytest.param(
            ["--data.num_workers=-1"], "error: num_workers is -1, expected at least 0", marks=pytest.mark.slow
        ),
        pytest.param(
            ["--data.pipeline.height=0"], "error: height is 0, expected at least 1 pixel", marks=pytest.mark.slow
        ),
        pytest.param(  # in every run: test_trainer_options.py
            ["--trainer.strategy=fsdp", "--trainer.accelerator=cpu"],
            "error: The strategy `fsdp` requires a GPU",
            marks=pytest.mark.slow,
        ),
        (
            ["--trainer.devices=0", "--trainer.accelerator=cpu"],
            "error: `Trainer(devices='0')` value is not a valid input",
        ),
    ],
)
def test_a_users_mistake_ends_with_2_and_leaves_no_folder(
    options: list[str], line: str, command: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as end:
        command("detect", "fit", *options)
    shown = capsys.readouterr().err
    assert end.value.code == 2
    assert shown.splitlines()[-1].startswith(line) and "usage:" not in shown and "Traceback" not in shown
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.name == "test" or path.is_file()]


MISTAKE = "error: --data.batch_sise is no option of datamodules.COCO; did you mean --data.batch_size?"


def test_a_mistake_of_a_process() -> None:
    assert running.run("detect", ["fit", RECIPE, "--data.batch_sise=1"]) == (2, MISTAKE)


@pytest.mark.slow
def test_a_mistake_of_a_real_process() -> None:
    """Nor does importing everything say a word."""
    answer = subprocess.run(
        [sys.executable, "-m", "tasks.detect", "fit", RECIPE, "--data.batch_sise=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (answer.returncode, answer.stdout, answer.stderr) == (2, "", f"{MISTAKE}\n")


class TestRun:
    """From what ends a command to its exit code."""

    @pytest.mark.parametrize(
        ("error", "code", "line"),
        [
            (TaskError("give a width"), 2, "error: give a width"),
            (DataError("a.json: no images"), 2, "error: a.json: no images"),
            (MachineError("the disk is full"), 3, "error: the disk is full"),
            (NumbersError("the loss is nan"), 4, "error: the loss is nan"),
            (KeyError("x"), 1, "error: KeyError: 'x'"),
            (StopRun(15), 143, ""),
            (SystemExit(124), 124, ""),
            (SystemExit("no such preset"), 1, "error: no such preset"),
            (KeyboardInterrupt(), 130, ""),
        ],
    )
    def test_exit_code_and_last_line(
        self, error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail() -> None:
            raise error

        with pytest.raises(SystemExit) as end:
            run(fail)
        shown = capsys.readouterr().err
        assert end.value.code == code
        assert shown.splitlines()[-1:] == ([line] if line else [])
        assert ("Traceback" in shown) == isinstance(error, KeyError)

    def test_success_returns(self) -> None:
        run(lambda: None)


class TestHelpfulOutput:
    """What libraries advise and does not apply is not shown; what is about the data or the numbers is."""

    def test_warnings(self) -> None:
        advice = [re.sub(r"\\([().])", r"\1", text).replace(".*", "X").replace(r"\d+", "74") for text in QUIET]
        with warnings.catch_warnings(record=True) as recorded:
            warnings.simplefilter("always")
            with helpful_output():
                for text in [*advice, f"in front: {advice[0]}", "3 boxes have no area", "loss is nan"]:
                    warnings.warn(text, stacklevel=1)
        assert [str(entry.message) for entry in recorded] == ["3 boxes have no area", "loss is nan"]

    def test_log(self, capfd: pytest.CaptureFixture[str]) -> None:
        handlers = logging.getLogger("lightning.pytorch").handlers
        stream = logging.StreamHandler(sys.stderr)
        logging.getLogger("lightning.pytorch").addHandler(stream)
        try:
            with helpful_output():
                for text in [*(text.strip("^").replace(r"\d+", "42") for text in QUIET_LOG), "GPU available: False"]:
                    rank_zero_info(text)
        finally:
            logging.getLogger("lightning.pytorch").removeHandler(stream)
        shown = capfd.readouterr().err
        assert set(shown.splitlines()) == {"GPU available: False"}
        assert not any(handler.filters for handler in handlers)

    def test_a_run_shows_nothing_else(self, command: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
        command("detect", "fit", "--trainer.limit_val_batches=1")
        shown = capfd.readouterr()
        for text in ("srun", "TPU", "Seed set", "Loading `train_dataloader`", "many workers", "Tip:"):
            assert text not in shown.out + shown.err
