"""`python -m tasks.recipes`: one table of all recipes, from their files, `configs/published.csv` and `docs/results`."""

import csv
from pathlib import Path

import yaml

from attention.page_command import run_page_command
from configs.mistakes import CommandParser
from tasks.run.summary_file import SUMMARY, read_summary

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "recipes.md"
COLUMNS = ("recipe", "backbone", "images a step", "hardware", "length", "published", "source", "reached here")


HEAD = """\
# Recipes

Written by `python -m tasks.recipes --write docs/recipes.md` from the recipes, `configs/published.csv` and the summaries
in `docs/results`; change those.

A recipe is what a paper fixes: data, detector or segmentor, optimiser, schedule, length. Any of them takes any
backbone, by the name of a file in `configs/backbones` or of a published network ([backbones.md](backbones.md)):

```
python -m tasks.detect  fit --config configs/detect/retinanet_1x.yaml  --model.backbone resnet50_cbam --data.root COCO
python -m tasks.segment fit --config configs/segment/upernet_160k.yaml --model.backbone backbones.swin_t
```

The learning rate is stated for the images of a step and follows their number, so that 1, 8 or 16 GPUs are right without
editing. What a recipe asks of every backbone (weights, frozen stages, norms, stride, drop path) stands under `host`; a
backbone that cannot have it says so in one line. Published scores are those of the named source, in percent, and never
ours.
"""


def page() -> str:
    """The page about all recipes, in Markdown."""
    with (ROOT / "configs" / "published.csv").open(newline="") as file:
        rows = [_row(line) for line in csv.DictReader(file)]
    table = ["| " + " | ".join(cells) + " |" for cells in (COLUMNS, ["---"] * len(COLUMNS), *rows)]
    return "\n".join([HEAD, *table]) + "\n"


def _row(line: dict[str, str]) -> list[str]:
    """The cells of one recipe with one backbone."""
    recipe = yaml.safe_load((ROOT / "configs" / f"{line['recipe']}.yaml").read_text())
    trainer, images = recipe["trainer"], recipe["model"]["parameter_rules"]["base_batch_size"]
    steps = trainer.get("max_steps")
    length = f"{steps:,} steps" if steps else f"{trainer['max_epochs']} epochs"
    published, source = line["published"] or "none known", line["source"]
    return [line["recipe"], line["backbone"], str(images), line["hardware"], length, published, source, _reached(line)]


def _reached(line: dict[str, str]) -> str:
    """The score of the run of this recipe that is kept in `docs/results`."""
    for file in sorted((ROOT / "docs" / "results").rglob(SUMMARY)):
        summary = read_summary(file)
        if summary["run"] == f"runs/{line['recipe']}":
            names = (summary["headline"], *summary["beside"])
            return ", ".join(f"{summary[name]:.3f} {name.removeprefix('val/')}" for name in names)
    return "not trained here"


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process.
    """
    description = "Prints the table of all recipes: images a step, hardware, length, published and reached scores."
    run_page_command("tasks.recipes", description, page(), PAGE, ROOT, args, CommandParser)


if __name__ == "__main__":
    main()
