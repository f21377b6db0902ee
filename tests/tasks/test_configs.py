"""Every file under configs/ builds; every recipe takes every backbone, or says why not."""

import inspect
import json
import re
from collections.abc import Iterator
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
    "dilation",
}
WITHOUT_STRIDE = {"swin_t", "swin_s", "elsa_swin_t", "elsa_swin_s", "lavit_t", "lavit_s"}
"""Windows do not dilate, nor do merged patches."""
WITH_MULTI_GRID = {path.stem for path in BACKBONES if re.search(r"resnet(50|101)", path.stem)}
"""Multi-grid is for networks whose last stage has as many blocks as the recipe's has numbers."""
MODEL = ("detector", "segmentor")


def identify(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def network_of(recipe: Path) -> str:
    """What a recipe says of the network: recipes of equal texts differ in length, rates or data only."""
    content = yaml.safe_load(recipe.read_text())
    return json.dumps([content.get("host"), *(content["model"].get(name) for name in (*MODEL, "backbone"))])


NETWORKS = list({network_of(recipe): recipe for recipe in reversed(RECIPES)}.values())[::-1]
"""The first recipe of each network."""


def build(recipe: Path, shapes: Path, *options: str) -> nn.Module:
    return build_task(recipe, shapes, *options, "--host.start=scratch", device="meta").model


@pytest.mark.slow
@pytest.mark.usefixtures("without_initialisation")
@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda path: path.stem)
@pytest.mark.parametrize("recipe", NETWORKS, ids=lambda path: path.stem)
def test_every_recipe_takes_every_backbone(recipe: Path, backbone: Path, shapes: Path) -> None:
    asked = yaml.safe_load(recipe.read_text()).get("host", {})
    options = [f"--model.backbone={backbone}"]
    if "output_stride" in asked and backbone.stem in WITHOUT_STRIDE:
        with pytest.raises(TaskError, match=rf"^backbones.{backbone.stem} has no output_stride"):
            build(recipe, shapes, *options)
        return
    if "multi_grid" in asked and backbone.stem not in WITH_MULTI_GRID:
        with pytest.raises((TaskError, SystemExit), match="multi_grid"):
            build(recipe, shapes, *options)
        options.append("--host.multi_grid=null")
    model = build(recipe, shapes, *options)
    part = next(module for module in model.modules() if isinstance(module, Backbone))
    if "output_stride" in asked:
        assert max(part.strides) == asked["output_stride"]
    if "multi_grid" in asked and backbone.stem in WITH_MULTI_GRID:
        assert part.network_options()["multi_grid"] == tuple(asked["multi_grid"])
    if "dilation" in asked and "mobilenet_v2" in backbone.stem:
        assert part.network_options()["dilation"] == asked["dilation"]
    paths = asked.get("drop_path", {})
    if backbone.stem in paths:
        rates = [module.p for module in part.modules() if type(module).__name__ == "StochasticDepth"]
        assert max(rates) == pytest.approx(paths[backbone.stem]) and min(rates) == 0


CAA = 42_519_392 + 524_800  # the backbone, and the auxiliary head's first convolution
SIZES: dict[str, tuple[int, dict[str, int]]] = {
    "caa_ade20k": (150, {"resnet101_v1c": CAA + 11_774_358 + 257 * 150, "resnet101": 54_837_868}),
    "caa_cityscapes": (19, {"resnet101_v1c": CAA + 11_740_691 + 257 * 19}),
    "caa_coco_stuff": (171, {"resnet101_v1c": CAA + 11_779_755 + 257 * 171}),
    "caa_pascal_context": (59, {"resnet101_v1c": CAA + 11_750_971 + 257 * 59}),
    "deeplabv3_160k": (
        150,
        {"resnet50_v1c": 68_213_900, "resnet101_v1c": 87_206_028, "mobilenet_v2": 18_702_892},
    ),
    "deeplabv3_ca_cityscapes": (19, {"mobilenet_v2_ca": 4_968_803, "mobilenet_v2": 4_523_027}),
    "deeplabv3_ca_voc": (
        21,
        {"mobilenet_v2_ca": 4_969_317, "mobilenet_v2": 4_523_541, "mobilenet_v2_se": 4_906_877},
    ),
    "deeplabv3plus_160k": (150, {"mobilenet_v2": 15_345_244}),
    "fcn_160k": (150, {"resnet50_v1c": 49_598_604, "mobilenet_v2": 9_819_692}),
    "pspnet_160k": (150, {"resnet50_v1c": 49_076_364, "resnet101_v1c": 68_068_492, "mobilenet_v2": 13_721_132}),
    "semantic_fpn_160k": (150, {"resnet50_v1c": 28_514_806}),
    "upernet_160k": (150, {"resnet50_v1c": 66_516_108, "resnet101_v1c": 85_508_236}),
    "upernet_adamw_160k": (
        150,
        {
            "swin_t": 59_941_862,
            "swin_s": 81_259_766,
            "backbones.swin_b": 121_279_716,
            "elsa_swin_t": 60_794_486,
            "elsa_swin_s": 84_528_134,
        },
    ),
}
"""Classes and parameters of published networks, by recipe and backbone: MMSegmentation's, and those of the papers."""


def sized() -> Iterator[object]:
    """Every recipe with its own backbone, one of each network in every run of the tests; others with a known size."""
    for recipe in RECIPES:
        classes, sizes = SIZES.get(recipe.stem, (7, {}))
        own = Path(yaml.safe_load(recipe.read_text())["model"]["backbone"]).stem
        for name in [own, *(name for name in sizes if name != own)]:
            marks = () if name == own and recipe in NETWORKS else pytest.mark.slow
            identity = f"{recipe.parent.name}/{recipe.stem} {name}"
            yield pytest.param(recipe, name, classes, sizes.get(name), marks=marks, id=identity)


@pytest.mark.usefixtures("without_initialisation")
@pytest.mark.parametrize(("recipe", "backbone", "classes", "parameters"), sized())
def test_recipe_builds(recipe: Path, backbone: str, classes: int, parameters: int | None) -> None:
    options = [f"--model.backbone={backbone}", f"--data.class_names={[f'class {number}' for number in range(classes)]}"]
    if recipe.parent.name == "detect":
        options += [f"--data.category_ids={[*range(classes)]}", "--data.images=none"]
    found = sum(parameter.numel() for parameter in build(recipe, Path("none"), *options).parameters())
    assert found == parameters if parameters else found > 100_000


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


DROP_INS = {
    f"attention.{name}"
    for name in attention.__all__
    if inspect.isclass(cls := getattr(attention, name)) and issubclass(cls, Refine)
} - {"attention.Refine", "attention.IdentityStart", "attention.Compose", "attention.Parallel"}  # these are of others


@pytest.mark.parametrize("sweep", ["retinanet_attentions", "upernet_attentions"])
def test_every_refinement_has_a_file_on_resnet50_and_a_place_in_the_comparison(sweep: str) -> None:
    compared = yaml.safe_load((CONFIGS / "sweeps" / f"{sweep}.yaml").read_text())["backbones"]
    assert compared[0] == "resnet50"
    found = []
    for name in compared[1:]:
        options = yaml.safe_load((CONFIGS / "backbones" / f"{name}.yaml").read_text())["init_args"]
        assert options["depth"] == 50
        operator = options["attention"] or options["attention_between"]
        found.append(operator if isinstance(operator, str) else operator["class_path"])
    assert sorted(found) == sorted(DROP_INS)


def test_every_refinement_has_a_place_in_the_comparison_of_heads() -> None:
    variants = yaml.safe_load((CONFIGS / "sweeps" / "head_attentions.yaml").read_text())["variants"]
    found = [options[0].partition("attention=")[2] for options in variants.values()]
    assert found[0] == "none" and {f"attention.{name}" for name in found[1:]} == DROP_INS


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
