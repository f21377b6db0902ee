"""What a run is and what it reached, as flat keys: `summary.json`, and W&B's config and summary."""

import json
import math
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch import nn

from attention import IdentityStart
from attention.base import Operator
from backbones import Backbone
from tasks.base import VisionTask
from tasks.profile.counting import count_macs
from tasks.run.clock import RunClock
from tasks.run.energy import Energy
from tasks.run.evaluation_file import EVALUATION
from tasks.run.facts import describe_data, device_name, package_versions, peak_memory
from tasks.run.files import write_text
from tasks.run.record import RunRecord, read_record
from tasks.run.resume import SAVED_CONFIG
from tasks.run.summary_file import SUMMARY, of_command
from tasks.run.wandb_run import WandbRun

UPLOADED = ("data.json", "metrics.csv")
"""What is uploaded with the evaluation, beside summary and options."""


class RunSummary(Callback):
    """Keeps the numbers of the best evaluation, with the facts that runs are compared by.

    `summary.json` of training holds the epoch with the best headline; `validate` and `test` write
    `summary.validate.json` and `summary.test.json`. Not-a-number (a class without ground truth) is written as null.
    What each image adds to these numbers is `evaluation.npz` beside it (`evaluation_file.py`), or
    `evaluation.validate.npz` and `evaluation.test.npz`.
    That of training says how the backbone began (`start`), how the run has ended (`exit`) and where it was taken up
    again (`resumed_at`); the whole chain of its starts is in `run.json` (`record.py`).
    Each names its `headline`, the `direction` in which it improves, and the scores that are shown `beside` it. What the
    data module knows of its splits before the first step is `data.json`, or `data.validate.json` and `data.test.json`.

    Args:
        task: `detect` or `segment`.
        subcommand: `fit`, `validate` or `test`.
        seed: Seed of the run.
        recipe: Name of the first config file.
        keep_evaluation: Whether to write `evaluation.npz`.
        clock: Tells how long the run has trained.
    """

    def __init__(
        self,
        task: str,
        subcommand: str,
        seed: int | None,
        recipe: str = "none",
        keep_evaluation: bool = True,
        clock: RunClock | None = None,
    ) -> None:
        self.task, self.subcommand, self.seed = task, subcommand, seed
        self.recipe, self.keep_evaluation = recipe, keep_evaluation
        self.clock, self.energy = clock or RunClock(), Energy()
        self.best: dict[str, Any] = {}
        self._start = ""
        self._facts: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must not forget."""
        self.energy.poll(now=True)
        return {
            "best": self.best,
            "seconds": self.clock.seconds,
            "energy": dict(self.energy.joules),
            "start": self._start,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the interrupted run's best, training time and energy."""
        self.best, self._start = state_dict["best"], state_dict.get("start", "unknown")
        self.clock.go_on_from(state_dict["seconds"])
        self.energy.go_on_from(state_dict.get("energy", {}))  # older checkpoints have neither this nor the start

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Collects the facts and tells W&B to compare runs by their best, not their last, number."""
        assert isinstance(pl_module, VisionTask)
        self._start = backbone_of(pl_module).start
        if not trainer.is_global_zero:
            return
        split = "test" if self.subcommand == "test" else "val"
        self._facts = describe_model(pl_module) | {
            "task": self.task,
            "headline": pl_module.headline.logged(split),
            "direction": pl_module.headline.direction,
            "beside": ", ".join(f"{split}/{name}" for name in pl_module.beside_headline),
            "seed": self.seed,
            "recipe": self.recipe,
            "git": git_revision(),
            "torch": str(torch.__version__),
            "versions": package_versions(),
            "device": device_name(trainer.strategy.root_device),
            "processes": trainer.world_size,
            **describe_data(trainer.datamodule),
        }
        facts, reports = self._facts, getattr(getattr(trainer, "datamodule", None), "reports", [])
        if reports:
            content = {report.split: report.content() for report in reports}
            write_text(f"{trainer.default_root_dir}/{self._named('data.json')}", json.dumps(content, indent=2) + "\n")
        rank_zero_info(
            f"{facts['head']} on {facts['backbone']}, attention: {facts['attention']}, {facts['parameters']:,} "
            f"parameters, {facts['MACs']:,} MACs at {facts['image_size']}; run folder {trainer.default_root_dir}"
        )
        for logger in trainer.loggers:
            if isinstance(logger, WandbRun):
                logger.update_config(_as_config(self._facts, pl_module.class_names))
                logger.update_config({name: value for report in reports for name, value in report.numbers().items()})
                logger.add_tags(tags_of(self._facts))
                logger.keep_best(pl_module.headline.logged(), pl_module.headline.direction)
                for name in pl_module.beside_headline:
                    logger.keep_best(f"val/{name}", pl_module.headline.direction)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock and the counters, and notes the device of this start."""
        self.clock.start()
        if not trainer.is_global_zero:
            return
        self.energy.start(trainer.device_ids if trainer.strategy.root_device.type == "cuda" else ())
        folder = Path(trainer.default_root_dir)
        if record := read_record(folder):
            record.with_device(self._facts["device"]).write(folder)

    def on_train_batch_end(self, *_: Any) -> None:
        """Reads the counters of energy before they begin anew."""
        self.energy.poll()

    def on_validation_batch_end(self, *_: Any) -> None:
        """The same."""
        self.energy.poll()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the numbers if they are the best so far."""
        assert isinstance(pl_module, VisionTask)
        if trainer.sanity_checking:
            return
        results, name = pl_module.results, pl_module.headline.logged()
        if self.subcommand != "fit":
            self._write(trainer, results | _content_of(pl_module))
            self._write_evaluation(trainer, pl_module)
        elif pl_module.headline.improves(results[name], self.best.get(name, math.nan)):
            place = {"epoch": trainer.current_epoch, "step": trainer.global_step}
            self.best = {**results, **place, **_content_of(pl_module)}
            self._write_evaluation(trainer, pl_module)
            self._write(trainer, self.best)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the numbers of the test."""
        assert isinstance(pl_module, VisionTask)
        self._write(trainer, pl_module.results | _content_of(pl_module))
        self._write_evaluation(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the whole training time; to W&B what it has no curves of: classes, costs, the hash of the data."""
        assert isinstance(pl_module, VisionTask)
        content = self._write(trainer, self.best)
        curves = {*self._facts, *(f"val/{name}" for name in pl_module.metrics.scores), "epoch", "step", "exit"}
        folder = Path(trainer.default_root_dir)
        for logger in trainer.loggers:
            if isinstance(logger, WandbRun) and content is not None:
                logger.update_summary({name: value for name, value in content.items() if name not in curves})
                logger.log_evaluation([folder / file for file in (EVALUATION, SUMMARY, SAVED_CONFIG, *UPLOADED)])

    @rank_zero_only
    def _write_evaluation(self, trainer: Trainer, task: VisionTask) -> None:
        if task.evaluation is not None and self.keep_evaluation:
            task.evaluation.write(Path(trainer.default_root_dir) / self._named(EVALUATION))

    def _named(self, file: str) -> str:
        return of_command(file, self.subcommand)

    @rank_zero_only
    def _write(self, trainer: Trainer, results: dict[str, Any]) -> dict[str, Any]:
        self.energy.poll(now=True)
        measured = {
            "peak_memory_MB": round(peak_memory(trainer) / 2**20, 1),
            "seconds": round(self.clock.seconds, 1),
            **{f"energy_{kind}_J": round(joules, 1) for kind, joules in self.energy.joules.items()},
            "run": str(trainer.default_root_dir),
        }
        content = self._facts | results | measured
        if self.subcommand == "fit":
            record = read_record(Path(trainer.default_root_dir)) or RunRecord()
            content |= {"start": self._start, **record.in_summary()}
        finite = {
            name: None if isinstance(value, float) and math.isnan(value) else value for name, value in content.items()
        }
        write_text(f"{trainer.default_root_dir}/{self._named(SUMMARY)}", json.dumps(finite, indent=2) + "\n")
        return finite


def _as_config(facts: dict[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """The facts beside the options in W&B, with their names; `data` is the data module's options there."""
    flat = {name: value for name, value in facts.items() if name != "data"} | {"class_names": list(class_names)}
    return flat | {"facts": sorted(flat)}


def tags_of(facts: dict[str, Any]) -> list[str]:
    """Task, backbone, attention, head and recipe of a run, each once, for W&B."""
    attention = "no attention" if facts["attention"] == "none" else facts["attention"]
    named = (facts["task"], facts["backbone"], attention, facts["head"], facts["recipe"])
    return [tag for tag in dict.fromkeys(named) if tag != "none"]


def _content_of(task: VisionTask) -> dict[str, Any]:
    """The hash of what was scored; summaries with the same one are of the same images, classes and annotations."""
    return {} if task.evaluation is None else {"data_hash": task.evaluation.data_hash()}


def describe_model(task: VisionTask) -> dict[str, Any]:
    """Names and costs of a task's model.

    Returns:
        `backbone`, `attention` (class names of the operators in it, or none), `head` (the detector or decode head; also
        under its kind, `detector` or `segmentor`), `parameters`, `MACs` (multiply-accumulates of one image of
        `image_size`, convolutions and matrix products only) and `image_size`.
    """
    backbone = backbone_of(task)
    kind, head = task.describe_head()
    return {
        "backbone": backbone.label,
        "attention": attention_names(backbone),
        kind: head,
        "head": head,
        "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
        "MACs": macs_of_an_image(task),
        "image_size": "x".join(map(str, task.image_size)),
    }


def backbone_of(task: VisionTask) -> Backbone:
    """The backbone of a task's model."""
    return next(module for module in task.model.modules() if isinstance(module, Backbone))


def attention_names(module: nn.Module) -> str:
    """Class names of the outermost attention operators, joined by +, or none, and which start as the identity."""
    names: list[str] = []
    for child in module.children():
        if isinstance(child, IdentityStart):
            found = f"{attention_names(child)}, identity start"
        else:
            found = type(child).__name__ if isinstance(child, Operator) else attention_names(child)
        names += [name for name in found.split("+") if name not in (*names, "none")]
    return "+".join(names) or "none"


def macs_of_an_image(task: VisionTask) -> int:
    """Multiply-accumulates of the model on one image of the task's image size, in evaluation mode."""
    size = torch.tensor([task.image_size], device=task.device)
    image = torch.zeros(1, 3, *task.image_size, dtype=torch.uint8, device=task.device)
    batch = {"image": image, "size": size, "targets": [{"original_size": size[0]}]}
    training = task.model.training
    task.model.eval()
    macs = count_macs(lambda: task.model(batch))
    task.model.train(training)
    return macs


def git_revision() -> str:
    """Commit of the working directory, with + behind it when files differ from it; unknown outside a checkout."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()
