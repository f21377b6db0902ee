"""A checkpoint is data: whatever it names or pickles, nothing of it is run by any way of loading it."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytest
import torch

import attention
import backbones
from backbones import MobileNetV2, load_weights
from tasks.base import VisionTask
from tasks.detection import DetectionTask
from tasks.detectors import FCOS
from tasks.errors import TaskError
from tasks.foreign_code import foreign_code
from tasks.weights import load_model_weights

NAMES = ["disk", "square", "triangle", "star", "ring", "cross"]
BUILDER = "lightning.pytorch.cli.instantiate_module"


class Payload:
    """Pickled, it calls `os.system` when it is read as code."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def arguments(**changed: Any) -> dict[str, Any]:
    """Constructor arguments as the command line saves them."""
    return {
        "_instantiator": BUILDER,
        "backbone": {"class_path": "backbones.MobileNetV2", "init_args": {"width": 0.25, "weights": None}},
        "detector": {"class_path": "tasks.detectors.FCOS", "init_args": {"channels": 32, "num_convs": 1}},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
        "class_names": NAMES,
        "category_ids": [1, 2, 4, 7, 11, 13],
        **changed,
    }


def payloads(marker: Path) -> dict[str, dict[str, Any]]:
    """Arguments that would touch the marker where a loader builds or unpickles what stands in them."""
    shell = {"class_path": "os.system", "init_args": {"command": f"touch {marker}"}}
    return {
        "instantiator": arguments(_instantiator="marking_module.run"),
        "class": arguments(_class_path="marking_module.Task"),
        "command": arguments(optimizer=shell),
        "import": arguments(backbone="marking_module.Backbone"),
        "pickle": arguments(note=Payload(marker)),
        "good": arguments(),
    }


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a payload writes; a module beside it writes it when it is imported."""
    (tmp_path / "marking_module.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "marking_module", raising=False)
    return tmp_path / "marker"


@pytest.fixture
def checkpoint(tmp_path: Path, marker: Path) -> Callable[[str], Path]:
    """Writes a good checkpoint with one of the payloads."""

    def write(kind: str) -> Path:
        torch.manual_seed(0)
        model = FCOS(MobileNetV2(0.25), len(NAMES), channels=32, num_convs=1)
        state = {f"model.{name}": value for name, value in model.state_dict().items()}
        payload = payloads(marker)[kind]
        path = tmp_path / f"{kind}.ckpt"
        facts = {"global_step": 1, "epoch": 0, "pytorch-lightning_version": "2.6.6"}
        torch.save({"state_dict": state, "hyper_parameters": payload, **facts}, path)
        return path

    return write


KINDS = ["instantiator", "class", "command", "import", "pickle"]


@pytest.fixture
def refused(command: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command of detection that must end with exit code 2 and one line of an error, and gives the line."""

    def run(subcommand: str, option: str) -> str:
        with pytest.raises(SystemExit) as stop:
            command("detect", subcommand, option)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert stop.value.code == 2 and len(lines) == 1
        return lines[0]

    return run


@pytest.mark.parametrize(
    ("subcommand", "kind"),
    [("fit", "command"), ("validate", "instantiator"), ("test", "pickle"), ("predict", "import")],
)
def test_command_line_with_a_checkpoint(
    subcommand: str, kind: str, checkpoint: Callable[[str], Path], refused: Callable[..., str], marker: Path
) -> None:
    expected = "UnpicklingError" if kind == "pickle" else "as a part of its model, and nothing of it has been run"
    assert expected in refused(subcommand, f"--ckpt_path={checkpoint(kind)}")
    assert not marker.exists()


def test_command_line_with_weights(
    checkpoint: Callable[[str], Path], refused: Callable[..., str], marker: Path
) -> None:
    assert "UnpicklingError" in refused("fit", f"--model.weights={checkpoint('pickle')}")
    assert not marker.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_another_run(kind: str, checkpoint: Callable[[str], Path], marker: Path) -> None:
    with pytest.raises(TaskError):
        load_model_weights(FCOS(MobileNetV2(0.25), 6, channels=32, num_convs=1), NAMES, checkpoint(kind))
    assert not marker.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_a_backbone(kind: str, checkpoint: Callable[[str], Path], marker: Path) -> None:
    backbone, path = MobileNetV2(0.25), checkpoint(kind)
    if kind == "pickle":
        with pytest.raises(ValueError, match="more than tensors"):
            load_weights(backbone, str(path))
    else:  # the arguments are not looked at
        load_weights(backbone, str(path))
    assert not marker.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_load_from_checkpoint(kind: str, checkpoint: Callable[[str], Path], marker: Path) -> None:
    if "load_from_checkpoint" not in vars(VisionTask) and kind in ("command", "import"):
        pytest.skip("Lightning's own load_from_checkpoint runs these")
    with pytest.raises((ValueError, UnpicklingError)):  # a TaskError is a ValueError, as are Lightning's own
        DetectionTask.load_from_checkpoint(checkpoint(kind))
    assert not marker.exists()


class TestLoadFromCheckpoint:
    """In Python, without the arguments that make it safe and work by themselves."""

    @pytest.fixture(autouse=True)
    def own(self) -> None:
        if "load_from_checkpoint" not in vars(VisionTask):
            pytest.skip("VisionTask has Lightning's load_from_checkpoint")

    def test_only_plain_data_whatever_the_environment(
        self, checkpoint: Callable[[str], Path], marker: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        with pytest.raises(TaskError):
            DetectionTask.load_from_checkpoint(checkpoint("pickle"))
        assert not marker.exists()

    def test_weights_to_start_from_are_not_looked_for(self, checkpoint: Callable[[str], Path]) -> None:
        path = checkpoint("good")
        content = torch.load(path, weights_only=True)
        content["hyper_parameters"]["weights"] = "gone.ckpt"
        content["hyper_parameters"]["backbone"]["init_args"]["weights"] = "imagenet"
        torch.save(content, path)
        state = DetectionTask.load_from_checkpoint(path).state_dict()
        assert all(torch.equal(value, content["state_dict"][name]) for name, value in state.items())

    def test_address(self) -> None:
        with pytest.raises(TaskError, match="does not exist"):
            DetectionTask.load_from_checkpoint("http://127.0.0.1:9/best.ckpt")


class TestForeignCode:
    @pytest.mark.parametrize(
        "arguments",
        [
            {"optimizer": "os.system"},
            {"a": [{"b": ({"class_path": "subprocess.Popen"},)}]},
            {"segmentor": {"init_args": {"decode_head": {"type": "FCNHead", "loss_decode": {"type": "os.system"}}}}},
            {"type": "antigravity"},
            {"x": "backbones.export_weights"},
            {"x": "backbones.weight_sources.os.system"},
            {"x": "tasks.cli.VisionCLI"},
            {"x": "torch.hub.load"},
            {"x": "torch.optim"},
            {"_instantiator": "os.system"},
        ],
        ids=str,
    )
    def test_found(self, arguments: dict[str, Any]) -> None:
        assert foreign_code({"hyper_parameters": arguments}) is not None
        assert foreign_code({"hparams": arguments}) is not None

    def test_texts_that_import_nothing(self) -> None:
        texts = {"class_names": ["os.path"], "weights": "torch.pth", "a": "resnet50.a1_in1k", "b": "bn", "c": "1.5"}
        assert foreign_code({"hyper_parameters": {**texts, "_instantiator": BUILDER}}) is None
        assert foreign_code({"state_dict": {}}) is None

    def test_nothing_is_imported(self, marker: Path) -> None:
        assert foreign_code({"hyper_parameters": {"x": "marking_module.Task"}}) == "marking_module.Task"
        assert not marker.exists()

    def test_parts_of_every_recipe_are_none(self) -> None:
        recipes = list((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
        named = re.compile(r"\b(?:attention|backbones|tasks\.\w+|torch\.optim)\.\w+")
        paths = {path for file in recipes for path in named.findall(file.read_text())}
        paths |= {f"backbones.{name}" for name in backbones.list_backbones()}
        parts = {name: getattr(attention, name) for name in attention.__all__}
        operators = [
            name for name, part in parts.items() if isinstance(part, type) and issubclass(part, torch.nn.Module)
        ]
        paths |= {f"attention.{name}" for name in operators}
        assert len(paths) > 80
        assert {path for path in paths if foreign_code({"hyper_parameters": {"part": path}}) is not None} == set()

    def test_own_class_that_is_imported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        own = type(sys)("own_package")
        own.MyBackbone = type("MyBackbone", (MobileNetV2,), {})  # type: ignore[attr-defined]
        own.launch = lambda: None  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "own_package", own)
        assert foreign_code({"hyper_parameters": {"backbone": {"class_path": "own_package.MyBackbone"}}}) is None
        assert foreign_code({"hyper_parameters": {"x": "own_package.launch"}}) == "own_package.launch"
