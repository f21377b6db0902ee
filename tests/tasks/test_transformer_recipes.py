"""Swin and ELSA-Swin under the recipes of their papers: drop path and decay of every pair, as published."""

import re
from pathlib import Path

import pytest
import yaml
from torch import nn
from torchvision.ops import StochasticDepth

from backbones import Backbone
from tests.tasks.building import CONFIGS, build_task

DROP_PATH = {
    "mask_rcnn_adamw_1x": {"swin_t": 0.1, "elsa_swin_t": 0.1, "elsa_swin_s": 0.2},
    "mask_rcnn_adamw_3x": {"swin_t": 0.2, "swin_s": 0.2, "elsa_swin_t": 0.2, "elsa_swin_s": 0.75},
    "cascade_mask_rcnn_adamw_1x": {"swin_t": 0.0, "elsa_swin_t": 0.0, "elsa_swin_s": 0.2},
    "cascade_mask_rcnn_adamw_3x": {
        "swin_t": 0.2,
        "swin_s": 0.2,
        "swin_b": 0.3,
        "elsa_swin_t": 0.2,
        "elsa_swin_s": 0.75,
    },
    "upernet_adamw_160k": {
        "swin_t": 0.3,
        "swin_t_local": 0.3,
        "swin_s": 0.3,
        "swin_b": 0.3,
        "elsa_swin_t": 0.3,
        "elsa_swin_s": 0.3,
    },
}
"""Of the deepest block, by recipe and backbone (arXiv 2103.14030, 2112.12786, and the code of both)."""
PAIRS = [(recipe, backbone) for recipe, rates in DROP_PATH.items() for backbone in rates]
BLOCKS = {"t": 12, "s": 24, "b": 24}
SPARED = (
    r"features\.0\.2\.(weight|bias)|features\.\d\.norm\.(weight|bias)|features\.\d\.\d+\.norm[12]\.(weight|bias)"
    r"|norm[0-3]\.(weight|bias)|features\.\d\.\d+\.attn\.relative_position_bias_table"
)
"""What does not decay, among the backbone's parameters; ELSA's own tables are called otherwise, and do."""


RATE_AND_DECAY = {"detect": (1e-4, 0.05), "segment": (6e-5, 0.01)}
"""For 16 images a step."""
NORMS_IN_HEADS = {"mask": 0, "cascade": 12, "upernet": 13}
"""Batch normalisations, none of which is spared."""


def path_of(recipe: str) -> Path:
    """The recipe's file."""
    return CONFIGS / ("segment" if recipe.startswith("upernet") else "detect") / f"{recipe}.yaml"


@pytest.mark.parametrize("recipe", DROP_PATH)
def test_rates_lengths_and_crops_are_those_published(recipe: str) -> None:
    content = yaml.safe_load(path_of(recipe).read_text())
    assert content["host"]["drop_path"] == DROP_PATH[recipe]
    schedule = yaml.safe_load((path_of(recipe).parent / content["model"]["lr_schedule"]).read_text())["init_args"]
    length, data = recipe.rpartition("_")[2], content["data"]
    if length == "160k":
        assert content["trainer"]["max_steps"] == 160_000 and data == "../data/ade20k.yaml"
        assert schedule == {"power": 1.0, "final_factor": 0.0, "warmup_steps": 1500, "warmup_factor": 1e-6}
    else:
        assert content["trainer"]["max_epochs"] == {"1x": 12, "3x": 36}[length]
        milestones = {"1x": [8, 11], "3x": [27, 33]}[length]
        assert schedule == {"warmup_steps": 500, "milestones": milestones, "unit": "epochs"}
        assert data == "../data/coco_multiscale.yaml"


@pytest.mark.usefixtures("without_initialisation")
@pytest.mark.parametrize(
    ("recipe", "backbone"),
    [pytest.param(*pair, marks=() if pair == PAIRS[2] else pytest.mark.slow) for pair in PAIRS],
)
def test_every_pair_drops_paths_and_decays_as_published(recipe: str, backbone: str, shapes) -> None:
    name = backbone if (CONFIGS / "backbones" / f"{backbone}.yaml").exists() else f"backbones.{backbone}"
    options = (f"--model.backbone={name}", "--host.start=scratch")
    task = build_task(path_of(recipe), shapes, *options, device="meta")
    network = next(module for module in task.model.modules() if isinstance(module, Backbone))
    rates = [module.p for module in network.modules() if isinstance(module, StochasticDepth)]
    blocks, deepest = BLOCKS[backbone[-1]], DROP_PATH[recipe][backbone]
    assert rates == pytest.approx([deepest * block / (blocks - 1) for block in range(blocks)])

    optimizer = task.options.parameter_rules.build(task.options.optimizer, task.model, 32)
    rate, decay = RATE_AND_DECAY[path_of(recipe).parent.name]
    assert {group["lr"] for group in optimizer.param_groups} == {2 * rate}  # of 32 images
    assert {tuple(group["betas"]) for group in optimizer.param_groups} == {(0.9, 0.999)}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, decay}
    spared = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    inside = {name for name, parameter in network.named_parameters() if id(parameter) in spared}
    assert inside == {name for name, _ in network.named_parameters() if re.fullmatch(SPARED, name)}
    assert len(spared) == len(inside)  # nothing of the heads, not even their batch normalisations
    heads = [module for module in task.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(heads) == NORMS_IN_HEADS[recipe.partition("_")[0]]
