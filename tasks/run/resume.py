"""Going on with a run: from its newest good checkpoint, with the options that started it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_info

from tasks.errors import TaskError
from tasks.run.checkpoint_files import CHECKPOINTS
from tasks.weights import NewerCheckpoint, read_checkpoint, require_good_bytes

SAVED_CONFIG = "config.fit.yaml"

MAY_DIFFER = (
    "trainer.max_steps", "trainer.max_epochs", "trainer.max_time", "trainer.min_steps", "trainer.min_epochs",
    "trainer.devices", "trainer.num_nodes", "trainer.accelerator", "trainer.strategy",
    "data.init_args.num_workers",
    "data.init_args.batch_size", "data.init_args.val_batch_size", "trainer.accumulate_grad_batches",
    "data.init_args.root", "data.init_args.train_images", "data.init_args.val_images",
    "data.init_args.train_annotations", "data.init_args.val_annotations", "model.weights", "runs", "name",
    "data.init_args.training_targets", "model.validation_loss",
    "trainer.default_root_dir",
    "trainer.logger", "trainer.log_every_n_steps", "trainer.enable_progress_bar", "trainer.enable_model_summary",
    "trainer.profiler", "wandb", "pictures", "reports", "writer",
    "config", "ckpt_path", "resume", "new_schedule", "save_every_n_steps", "save_every_n_minutes", "stop_within",
    "skip_bad_steps", "check_every_step", "keep_evaluation", "weights_only",
)  # fmt: skip
"""Options in which a start may differ from the one that it continues: length, devices, workers, batch, paths, logging,
and what this package does around a run."""

SCHEDULE = ("optimizer", "lr_schedule", "parameter_rules")
"""Options of the model that may differ as well with `--new_schedule true`."""


@dataclass(frozen=True)
class Candidate:
    """A checkpoint of a run.

    Attributes:
        path: The file.
        step: Optimiser steps that it has seen.
        epoch: Complete epochs.
    """

    path: Path
    step: int
    epoch: int


def newest_good_checkpoint(folder: Path) -> Candidate | None:
    """The checkpoint of a run folder with the most steps whose content is whole, whatever wrote it.

    Damaged ones are named and passed over.

    Args:
        folder: The run folder.
    """
    for candidate in sorted(_candidates(folder), key=lambda each: (each.step, each.path.stat().st_mtime), reverse=True):
        try:
            require_good_bytes(candidate.path)
        except TaskError as error:
            rank_zero_info(f"{error}; taking the one before")
            continue
        return candidate
    return None


def _candidates(folder: Path) -> Iterator[Candidate]:
    for path in [*(folder / CHECKPOINTS).glob("*.ckpt"), *folder.glob("hpc_ckpt_*.ckpt")]:
        try:
            content = read_checkpoint(path)
        except NewerCheckpoint:
            raise
        except TaskError as error:
            rank_zero_info(f"{error}; taking the one before")
            continue
        if "optimizer_states" in content:  # weights alone cannot be continued
            yield Candidate(path, int(content["global_step"]), int(content["epoch"]))


def differing_options(folder: Path, config: Mapping[str, Any], new_schedule: bool) -> list[str]:
    """What a start has otherwise than the run that it continues, as `option: before -> now`, except what may differ.

    Args:
        folder: The run folder, with the configuration that started it.
        config: The configuration of this start, as plain data.
        new_schedule: Rates and schedule may differ.
    """
    file = folder / SAVED_CONFIG
    if not file.exists():
        return []
    before, now = flatten(yaml.safe_load(file.read_text())), flatten(config)
    allowed = MAY_DIFFER + (tuple(f"model.{name}" for name in SCHEDULE) if new_schedule else ())
    names = sorted(
        name
        for name in before.keys() | now.keys()
        if before.get(name) != now.get(name)
        and not any(name == option or name.startswith(option + ".") for option in allowed)
    )
    return [f"{name}: {before.get(name)} -> {now.get(name)}" for name in names]


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested options as one table of dotted names."""
    if not isinstance(config, Mapping):
        return {prefix: list(config) if isinstance(config, tuple) else config}
    return {
        name: value
        for key, part in config.items()
        for name, value in flatten(part, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def require_same_options(folder: Path, config: Mapping[str, Any], new_schedule: bool) -> None:
    """Refuses to continue a run as another one.

    Raises:
        TaskError: Options differ that make it another run.
    """
    differing = differing_options(folder, config, new_schedule)
    if differing:
        hint = "" if new_schedule else " (rates and schedule may: --new_schedule true)"
        raise TaskError(
            f"{folder} was started with other options: {'; '.join(differing)}; continue it with its own{hint}, or "
            "start a run of its own with another --name"
        )
