"""Every recipe runs under its own trainer settings, at reduced scale, to its last step, saved and scored.

The recipe's file is untouched. Its lengths and intervals (`max_steps`, `max_epochs`, `check_val_every_n_epoch`,
milestones) are divided by one factor; steps within an epoch shrink as the data set does: 6 images, batches of 2, inputs
of 96 pixels.
"""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tasks import detect, segment
from tests.tasks.running import content_of

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted([*CONFIGS.glob("detect/*.yaml"), *CONFIGS.glob("segment/*.yaml")])
SMALL = ("--model.backbone.embed_channels=32", "--model.backbone.depths=[1,1,1,1]")
SWIN = ("--model.backbone=backbones.Swin", *SMALL)
IN_EVERY_RUN = {
    "retinanet_adamw_1x": (*SWIN, "--model.detector.channels=32"),
    "mask_rcnn_adamw_1x": SWIN,
    "ssdlite320": (),
    "upernet_adamw_160k": (
        "--model.backbone=backbones.ELSASwin",
        *SMALL,
        "--model.segmentor.decode_head.channels=16",
        "--model.segmentor.auxiliary_head.channels=16",
    ),
    "caa_pascal_context": (
        "--model.backbone=resnet18_cbam",
        "--host.multi_grid=[1,2]",  # of two blocks
        *(f"--model.segmentor.decode_head.{name}=8" for name in ("channels", "key_channels", "feature_channels")),
        "--model.segmentor.auxiliary_head.channels=16",
    ),
}
"""One recipe a family of heads, with a small network, in every run of the tests; all as they are with `-m slow`."""
OTHER_BACKBONE = {"upernet_adamw_160k": "elsa_swin_t", "cascade_rcnn_1x": "resnet18_cbam"}
FEW_BOXES = ("channels=32", "rpn.proposals_train=64", "rpn.proposals_test=32", "box_head.samples=16")
THIN_HEADS = ("box_head.fc_channels=32", "box_head.conv_channels=32", "mask_head.channels=16")
"""Options of detectors of two stages, whose heads would take minutes."""
MAINS = {"detect": detect.main, "segment": segment.main}
SPLITS = {
    "COCO": ("val_images=val2017", "val_annotations=annotations/instances_val2017.json"),
    "ADE20K": ("val_split=validation",),
    "LabelMasks": tuple(
        f"{split}={{images: images/{name}/*.jpg, masks: annotations/{name}/*.png, names: null}}"
        for split, name in (("train", "training"), ("val", "validation"))
    ),
}
"""Where the sample data set is not laid out as that of a recipe, by the class that reads it."""
DATA = {"detect": "coco", "segment": "ade20k"}
MONITOR = {"detect": "val/mAP", "segment": "val/mIoU"}
IMAGES, STEPS_AN_EPOCH, STEPS, EPOCHS, WARMUP = 6, 3, 8, 4, 2
SIZES = {
    "ShorterSide": {"shorter": "[96]", "longest": 128},
    "MultiScaleCrop": {"shorter": "[96]", "longest": 128, "before_crop": "[80]", "crop": "[64,96]"},
    "FixedSize": {"height": 96, "width": 96},
    "SSDCrop": {"height": 96, "width": 96},
    "RandomRatioCrop": {"longest": 128, "shorter": 96, "crop": 96},
}


def part(recipe: Path, value: object) -> dict:
    """A part of a recipe, which may stand in a file of its own."""
    return yaml.safe_load((recipe.parent / value).read_text()) if isinstance(value, str) else value


class Reduced:
    """A recipe at reduced scale.

    Args:
        path: The recipe.
        network: Options of another network.
    """

    def __init__(self, path: Path, network: tuple[str, ...] = ()) -> None:
        self.network = network
        content = yaml.safe_load(path.read_text())
        self.path, self.task = path, path.parent.name
        self.trainer = content["trainer"]
        self.detector = str(content["model"].get("detector"))
        self.optimizer = part(path, content["model"]["optimizer"])
        self.rate_scale = 2 / content["model"]["parameter_rules"]["base_batch_size"]
        self.schedule = part(path, content["model"]["lr_schedule"])
        self.data = part(path, content["data"])
        self.in_steps = "max_steps" in self.trainer
        self.factor = self.trainer["max_steps"] / STEPS if self.in_steps else self.trainer["max_epochs"] / EPOCHS
        self.interval = max(1, round(self.trainer.get("check_val_every_n_epoch", 1) / self.factor))
        self.steps = STEPS if self.in_steps else EPOCHS * STEPS_AN_EPOCH
        self.warmup = WARMUP if {"warmup_steps", "warmup_epochs"} & self.schedule["init_args"].keys() else 0

    def options(self) -> list[str]:
        """What is given behind the recipe."""
        trainer = {"check_val_every_n_epoch": self.interval}
        trainer |= {"max_steps": self.steps} if self.in_steps else {"max_epochs": EPOCHS}
        options = [f"--trainer.{name}={value}" for name, value in trainer.items()]
        if self.warmup:
            options += [f"--model.lr_schedule.warmup_{name}" for name in (f"steps={self.warmup}", "epochs=0")]
        if "milestones" in self.schedule["init_args"]:
            options.append(f"--model.lr_schedule.milestones={self.milestones()}")
        options.extend(self.network)
        if "RCNN" in self.detector:
            thin = THIN_HEADS if "Mask" in self.detector else THIN_HEADS[:2]
            options += [f"--model.detector.{option}" for option in (*FEW_BOXES, *thin)]
        options.append("--host.start=scratch")  # weights cannot be downloaded in a test
        default = "ShorterSide" if self.task == "detect" else "RandomRatioCrop"
        pipeline = self.data["init_args"].get("pipeline", {"class_path": default})["class_path"].rpartition(".")[2]
        sizes = [f"--data.pipeline.{name}={value}" for name, value in SIZES[pipeline].items()]
        splits = SPLITS[self.data["class_path"].rpartition(".")[2]]
        return [*options, f"--data.pipeline={pipeline}", *sizes, *(f"--data.{split}" for split in splits)]

    def milestones(self) -> list[float]:
        """Epochs or steps at which the rate falls."""
        places = [place / self.factor for place in self.schedule["init_args"]["milestones"]]
        return places if self.schedule["init_args"]["unit"] == "epochs" else list(map(math.floor, places))

    def rate(self, step: int) -> float:
        """The formula of the paper's schedule, written out."""
        options, progress = self.schedule["init_args"], step / self.steps
        kind = self.schedule["class_path"].rpartition(".")[2]
        if kind == "MultiStep":
            place = step / STEPS_AN_EPOCH if options["unit"] == "epochs" else step
            factor = 0.1 ** sum(place >= milestone - 1e-9 for milestone in self.milestones())
        elif kind == "Cosine":
            factor = (1 + math.cos(math.pi * progress)) / 2
        else:
            assert kind == "Polynomial"
            least = options["final_factor"]
            factor = least + (1 - least) * (1 - progress) ** options["power"]
        if step < self.warmup:
            start = options.get("warmup_factor", 0.001)
            factor *= start + (1 - start) * step / self.warmup
        return self.optimizer["init_args"]["lr"] * self.rate_scale * factor


def cases() -> Iterator[object]:
    """Recipes with options of the network that they run with."""
    for path in RECIPES:
        name = f"{path.parent.name}/{path.stem}"
        if path.stem in IN_EVERY_RUN:
            yield pytest.param(path, IN_EVERY_RUN[path.stem], id=f"{name} small")
        other = OTHER_BACKBONE.get(path.stem)
        whole = () if other is None else (f"--model.backbone={other}",)
        yield pytest.param(path, whole, marks=pytest.mark.slow, id=name)


@pytest.mark.parametrize(("path", "network"), cases())
def test_recipe_runs_to_its_last_step(path: Path, network: tuple[str, ...], shapes: Path, tmp_path: Path) -> None:
    recipe = Reduced(path, network)
    MAINS[recipe.task](
        [
            "fit",
            f"--config={path}",
            *recipe.options(),
            f"--data.root={shapes / DATA[recipe.task]}",
            f"--data.max_images={IMAGES}",
            "--data.batch_size=2",
            "--data.val_batch_size=3",
            "--data.num_workers=0",
            "--trainer.log_every_n_steps=1",
            "--wandb.mode=disabled",
            "--pictures.images=0",
            f"--runs={tmp_path}",
            "--name=reduced",
        ]
    )
    folder = tmp_path / recipe.task / "reduced"
    last = content_of(folder / "checkpoints" / "last.ckpt")
    assert last["global_step"] == recipe.steps
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    assert (folder / "checkpoints" / "best.ckpt").exists() and (folder / "summary.json").exists()
    with (folder / "metrics.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    scored = [int(row["step"]) + 1 for row in rows if row.get(MONITOR[recipe.task])]
    assert len(scored) >= 2 and scored[-1] == recipe.steps
    column = next(name for name in rows[0] if name.startswith("lr-") and "head" in name)
    assert [float(row[column]) for row in rows] == pytest.approx([recipe.rate(step) for step in range(recipe.steps)])
    assert len({round(recipe.rate(step), 12) for step in range(recipe.steps)}) > 3
