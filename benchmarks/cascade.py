"""What a cascade gains: `python -m benchmarks.cascade --root data/shapes/coco --write docs/results.md`.

Mask R-CNN and Cascade Mask R-CNN learn the sample data set from random weights. Backbone, pyramid, layers of the heads,
steps and seeds are the same, and both have the class-agnostic box head of MMDetection's cascades; everything else is
each detector's own. Runs that have ended are not repeated; their summaries are kept.
"""

import json
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from benchmarks.measure import show_table

RESULTS = Path("docs/results/cascade")
SEEDS = (0, 1, 2)
SCORES = ("mAP", "mAP50", "mAP75", "mask_mAP", "mask_mAP50", "mask_mAP75")
SHARED = (
    "--config=configs/detect/quickstart.yaml",
    "--data.batch_size=4",
    "--trainer.max_epochs=2",
    "--trainer.check_val_every_n_epoch=2",
    "--model.lr_schedule.warmup_steps=50",
)
HEADS = (
    "channels=64",
    "rpn.anchor_scale=4",
    "rpn.samples=64",
    "rpn.candidates_train=200",
    "rpn.candidates_test=200",
    "rpn.proposals_train=200",
    "rpn.proposals_test=100",
    "box_head.convs=0",
    "box_head.fcs=2",
    "box_head.fc_channels=128",
    "box_head.samples=64",
    "box_head.regressors=shared",
    "box_head.loss=smooth_l1",
    "mask_head.channels=64",
    "mask_head.convs=2",
)
DETECTORS = ("MaskRCNN", "CascadeMaskRCNN")


def run_name(detector: str, seed: int) -> str:
    """Name of a run, and of the folder of its summary."""
    return f"{detector}-seed{seed}"


def train(root: Path, runs: Path, more: Sequence[str]) -> None:
    """Trains what has no summary yet, one run after the other, and keeps the summaries.

    Args:
        root: The sample data set in COCO's layout.
        runs: Folder of all runs.
        more: Further options of all runs.
    """
    for seed in SEEDS:
        for detector in DETECTORS:
            name = run_name(detector, seed)
            kept = RESULTS / name / "summary.json"
            if kept.is_file():
                continue
            heads = [f"--model.detector.{option}" for option in HEADS]
            own = [f"--model.detector=tasks.detectors.{detector}", *heads, f"--seed_everything={seed}"]
            places = [f"--data.root={root}", f"--runs={runs}", f"--name={name}"]
            command = [sys.executable, "-m", "tasks.detect", "fit", *SHARED, *own, *places, *more]
            subprocess.run(command, check=True)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(runs / "detect" / name / "summary.json", kept)


def scores(detector: str) -> dict[str, list[float]]:
    """Every score of a detector, one value for each seed, from the summaries."""
    summaries = [json.loads((RESULTS / run_name(detector, seed) / "summary.json").read_text()) for seed in SEEDS]
    return {score: [summary[f"val/{score}"] for summary in summaries] for score in SCORES}


def table() -> str:
    """The table in Markdown: means over the seeds, and the difference of each seed's two runs."""
    single, cascade = (scores(detector) for detector in DETECTORS)
    lines = [["score", *DETECTORS, "difference", *(f"seed {seed}" for seed in SEEDS)], ["---"] * (4 + len(SEEDS))]
    for score in SCORES:
        gains = [after - before for before, after in zip(single[score], cascade[score], strict=True)]
        means = [f"{mean(values[score]):.3f}" for values in (single, cascade)]
        lines.append([score, *means, f"{mean(gains):+.3f} ± {stdev(gains):.3f}", *(f"{gain:+.3f}" for gain in gains)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; default: those of the process. What it does not know goes to the runs.
    """
    parser = ArgumentParser(prog="python -m benchmarks.cascade", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("data/shapes/coco"), help="the sample data set")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument("--write", type=Path, help="put the table into this document, between <!-- cascade --> marks")
    options, more = parser.parse_known_args(args)
    train(options.root, options.runs, more)
    show_table("cascade", table(), options.write)


if __name__ == "__main__":
    main()
