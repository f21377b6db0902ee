"""Every file under configs/ builds; every recipe takes every backbone, or says why not."""

import inspect
from pathlib import Path

import pytest
import yaml
from torch import nn

import attention
from attention import Refine
from backbones import Backbone
from tasks import segment
from tasks.errors import TaskError
from tests.tasks.building import BACKBONES, CONFIGS, RECIPES, build_task

OTHERS = ("detect", "segment", "backbones", "sweeps")
PARTS = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name not in OTHERS)
OPTIONS = {"optimizers": "model.optimizer", "schedules": "model.lr_schedule", "segmentors": "model.segmentor"}
PAIR_OPTIONS = {
    "weights",
    "frozen_stages",
    "norms",
    "output_stride",
    "drop_path",
    "last_conv",
    "tap_expansion",
    "multi_grid",
}
WITHOUT_SENSE = {  # windows do not dilate, nor do merged patches
    ("deeplabv3_160k", name): f"backbones.{name} has no output_stride"
    for name in ("swin_t", "swin_s", "elsa_swin_t", "elsa_swin_s", "lavit_t", "lavit_s")
}
"""Recipes and backbones that do not go together, and how the refusal begins."""


def identify(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def build(recipe: Path, shapes: Path, *options: str) -> nn.Module:
    # MMSegmentation's heads read numbers from their tensors when they are made.
    device = "cpu" if recipe.parent.name == "segment" else "meta"
    return build_task(recipe, shapes, *options, "--host.start=scratch", device=device).model


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda path: path.stem)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_takes_every_backbone(recipe: Path, backbone: Path, shapes: Path) -> None:
    refusal = WITHOUT_SENSE.get((recipe.stem, backbone.stem))
    if refusal is not None:
        with pytest.raises(TaskError, match=f"^{refusal}"):
            build(recipe, shapes, f"--model.backbone={backbone}")
        return
    model = build(recipe, shapes, f"--model.backbone={backbone}")
    part = next(module for module in model.modules() if isinstance(module, Backbone))
    asked = yaml.safe_load(recipe.read_text()).get("host", {})
    if "output_stride" in asked:
        assert max(part.strides) == asked["output_stride"]
    paths = asked.get("drop_path", {})
    if backbone.stem in paths:
        rates = [module.p for module in part.modules() if type(module).__name__ == "StochasticDepth"]
        assert max(rates) == pytest.approx(paths[backbone.stem]) and min(rates) == 0


@pytest.mark.parametrize("recipe", RECIPES, ids=identify)
def test_recipe_builds(recipe: Path, shapes: Path) -> None:
    assert sum(parameter.numel() for parameter in build(recipe, shapes).parameters()) > 100_000


@pytest.mark.parametrize("part", PARTS, ids=identify)
def test_part_builds(part: Path, shapes: Path) -> None:
    masks = ("ade20k", "datamodules.LabelMasks")
    task = "segment" if "segment" in identify(part) or any(name in part.read_text() for name in masks) else "detect"
    recipe = CONFIGS / task / "quickstart.yaml"
    option = OPTIONS.get(part.parent.name, "data")
    build_task(recipe, shapes, f"--{option}={part}")


def test_backbone_files_of_a_class_set_the_same_options() -> None:
    """Otherwise a file that takes the place of another would keep some of its options without a word."""
    options: dict[str, set[frozenset[str]]] = {}
    for path in BACKBONES:
        part = yaml.safe_load(path.read_text())
        options.setdefault(part["class_path"], set()).add(frozenset(part.get("init_args", {})))
    assert options and all(len(kinds) == 1 for kinds in options.values()), options


def test_every_refinement_has_a_file_on_resnet50_and_a_place_in_the_comparison() -> None:
    drop_ins = {
        f"attention.{name}"
        for name in attention.__all__
        if inspect.isclass(cls := getattr(attention, name)) and issubclass(cls, Refine)
    } - {"attention.Refine", "attention.IdentityStart"}
    compared = yaml.safe_load((CONFIGS / "sweeps" / "retinanet_attentions.yaml").read_text())["backbones"]
    assert compared[0] == "resnet50"
    found = []
    for name in compared[1:]:
        options = yaml.safe_load((CONFIGS / "backbones" / f"{name}.yaml").read_text())["init_args"]
        assert options["depth"] == 50
        operator = options["attention"] or options["attention_between"]
        found.append(operator if isinstance(operator, str) else operator["class_path"])
    assert sorted(found) == sorted(drop_ins)


@pytest.mark.parametrize("path", BACKBONES, ids=identify)
def test_backbone_file_leaves_to_the_recipe_what_belongs_to_the_pair(path: Path) -> None:
    assert not PAIR_OPTIONS & set(yaml.safe_load(path.read_text()).get("init_args", {}))


@pytest.mark.parametrize("path", RECIPES, ids=identify)
def test_recipe_states_how_to_run_it_and_for_how_many_images_its_rate_is_meant(path: Path) -> None:
    text = path.read_text()
    header = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    assert f"python -m tasks.{path.parent.name} fit --config configs/{identify(path)}" in header
    assert yaml.safe_load(text)["model"]["parameter_rules"]["base_batch_size"] > 0
    assert len(text.splitlines()) <= 45


def test_parts_by_their_names(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = ("--model.backbone", "resnet18_cbam", "--model.lr_schedule=poly", "--data", "ade20k")
    segment.main(["fit", f"--config={CONFIGS}/segment/quickstart.yaml", *parts, "--print_config"])
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["model"]["backbone"]["init_args"]["depth"] == 18
    assert shown["model"]["lr_schedule"]["class_path"] == "tasks.schedules.Polynomial"
    assert shown["data"]["init_args"]["root"] == "data/ade20k"


def test_learning_rate_is_that_of_the_images_of_a_step(shapes: Path) -> None:
    """1, 8 or 16 GPUs are right without editing."""
    task = build_task(CONFIGS / "detect" / "retinanet_1x.yaml", shapes, "--host.start=scratch", device="meta")
    for images, rate in ((2, 0.00125), (16, 0.01), (32, 0.02)):
        optimizer = task.options.parameter_rules.build(task.options.optimizer, task.model, images)
        assert {group["lr"] for group in optimizer.param_groups} == {rate}
