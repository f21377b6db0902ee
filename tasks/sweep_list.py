"""A sweep: one recipe over several backbones, variants of its options and seeds, read from one short file."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from tasks.errors import TaskError
from tasks.near_names import instead, missing_file
from tasks.recipe_parts import with_files

KEYS = ("task", "config", "backbones", "variants", "seeds", "options")
OWN = ("--config", "--model.backbone", "--seed_everything", "--name", "--resume", "--runs")
"""Options that the sweep gives its runs itself."""
IN_FILE = ("backbones", "variants", "seeds", "options")
"""Keys of its file that could be taken for options."""


@dataclass(frozen=True)
class Setting:
    """One of the things that a sweep compares: a backbone under a variant of the recipe.

    Attributes:
        label: What it is called in the names of runs: BACKBONE, or BACKBONE-VARIANT in a sweep with variants.
        backbone: Backbone, as `--model.backbone` takes it.
        options: Options that make the variant of the recipe.
    """

    label: str
    backbone: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep.

    Attributes:
        name: Name of the run below `runs/TASK`: SWEEP/SETTING-seedSEED.
        setting: What is trained.
        seed: Seed of all random numbers.
    """

    name: str
    setting: Setting
    seed: int

    @property
    def label(self) -> str:
        """The last part of the name."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True)
class Sweep:
    """One recipe over backbones, variants of it and seeds.

    Attributes:
        name: Name of the sweep: that of its file.
        task: `detect` or `segment`.
        config: The recipe.
        backbones: Names of files in `configs/backbones` or of published networks (`backbones.swin_b`).
        seeds: Seeds, the same for every setting.
        options: Options of all runs.
        variants: Names of variants of the recipe, with the options that make each; every backbone runs under each of
            them. Without any the recipe is as it is.
    """

    name: str
    task: Literal["detect", "segment"]
    config: Path
    backbones: tuple[str, ...]
    seeds: tuple[int, ...]
    options: tuple[str, ...] = ()
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def settings(self) -> list[Setting]:
        """What is compared: every backbone, or every backbone under every variant."""
        if not self.variants:
            return [Setting(backbone_label(backbone), backbone) for backbone in self.backbones]
        return [
            Setting(f"{backbone_label(backbone)}-{variant}", backbone, options)
            for backbone in self.backbones
            for variant, options in self.variants.items()
        ]

    def runs(self) -> list[SweepRun]:
        """All runs; every setting once before the next seed, so that a sweep that is cut short compares settings."""
        return [
            SweepRun(f"{self.name}/{setting.label}-seed{seed}", setting, seed)
            for seed in self.seeds
            for setting in self.settings()
        ]

    def options_of(self, run: SweepRun, runs: Path, more: Sequence[str] = ()) -> list[str]:
        """What a run is given behind the recipe: its own options, the sweep's, its variant's, and further, which win.

        Args:
            run: The run.
            runs: Folder of all runs.
            more: Further options of all runs.
        """
        own = ["--model.backbone", run.setting.backbone, "--seed_everything", str(run.seed), "--name", run.name]
        own += ["--runs", str(runs), "--wandb.group", f"{self.name}/{run.setting.label}"]
        return [*own, *self.options, *run.setting.options, *more]

    def arguments(self, run: SweepRun, runs: Path, more: Sequence[str] = ()) -> list[str]:
        """Arguments of `python -m tasks.TASK` for one run; see `options_of`."""
        return ["fit", "--config", str(self.config), "--resume", "auto", *self.options_of(run, runs, more)]


def backbone_label(backbone: str) -> str:
    """What a backbone is called in the names of runs: `resnet50_se`, `swin_b` of `backbones.swin_b`, a file's stem."""
    return Path(backbone).stem if backbone.endswith(".yaml") else backbone.rpartition(".")[2]


def read_sweep(path: Path) -> Sweep:
    """Reads a sweep and looks at everything that can be wrong before the first run is started.

    Args:
        path: A yaml file with `task`, `config` (relative to the file), `backbones`, `seeds` and, if there are any,
            `options` of all runs and `variants`, names with the options of each.

    Raises:
        TaskError: It is no sweep, or names a recipe or a backbone that is not there.
    """
    if path.is_dir():
        example = next((f", such as {file}" for file in sorted(path.glob("*.yaml"))), "")
        raise TaskError(f"{path} is a folder; expected the file of a sweep{example}")
    if not path.is_file():
        raise TaskError(missing_file(path))
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TaskError(f"{path} is no yaml: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise TaskError(f"{path} is no sweep; expected the keys {', '.join(KEYS)}")
    for key in content:
        if key not in KEYS:
            raise TaskError(f"{path}: {key} is no key of a sweep{instead(str(key), KEYS)}")
    task, config = content.get("task"), path.parent / str(content.get("config"))
    if task not in ("detect", "segment"):
        raise TaskError(f"{path}: task is {task!r}, expected detect or segment")
    if not config.is_file():
        raise TaskError(f"{path}: config: {missing_file(config)}")
    backbones, seeds = (_listed(path, content, key, kind) for key, kind in (("backbones", str), ("seeds", int)))
    options = _listed(path, content, "options", str) if "options" in content else ()
    variants = _variants(path, content["variants"]) if "variants" in content else {}
    sweep = Sweep(path.stem, task, _short(config), backbones, seeds, options, variants)
    refuse_own_options(options)
    for backbone in backbones:
        _require_backbone(path, sweep, backbone)
    return sweep


def refuse_own_options(options: Sequence[str]) -> None:
    """Refuses options that the sweep gives its runs itself.

    Raises:
        TaskError: There is one.
    """
    for option in options:
        name = option.partition("=")[0]
        if name in OWN or name.removeprefix("--") in IN_FILE:
            raise TaskError(f"{name} is the sweep's to give; write it into the sweep's file")


def _listed(path: Path, content: dict[str, Any], key: str, kind: type) -> tuple[Any, ...]:
    values = content.get(key)
    words = "names" if kind is str else "integers"
    if not isinstance(values, list) or not values or not all(type(value) is kind for value in values):
        raise TaskError(f"{path}: {key} is {values!r}, expected a list of {words}")
    named = map(backbone_label, values) if key == "backbones" else values
    twice = [value for value, times in Counter(named).items() if times > 1]
    if twice and key != "options":
        raise TaskError(f"{path}: {key} has {twice[0]} twice, and their runs would share a folder; leave one out")
    return tuple(values)


def _variants(path: Path, given: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(given, dict) or not given:
        raise TaskError(f"{path}: variants is {given!r}, expected names, each with a list of options")
    for name, options in given.items():
        if not (isinstance(name, str) and re.fullmatch(r"\w+", name)):
            raise TaskError(f"{path}: variants has {name!r}, expected a name of letters, digits and _ for a folder")
        if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
            raise TaskError(f"{path}: the variant {name} is {options!r}, expected a list of options, [] for none")
        refuse_own_options(options)
    return {name: tuple(options) for name, options in given.items()}


def _short(path: Path) -> Path:
    """The path without `..`, relative to the working directory where it lies below."""
    resolved = path.resolve()
    return resolved.relative_to(Path.cwd()) if resolved.is_relative_to(Path.cwd()) else resolved


def _require_backbone(path: Path, sweep: Sweep, backbone: str) -> None:
    """A file's name is found as the run's own command line finds it; import paths are looked up there."""
    found = with_files(["--config", str(sweep.config), "--model.backbone", backbone])[-1]
    if found == backbone and "." not in backbone:
        folder = sweep.config.parent.parent / "backbones"
        known = sorted(file.stem for file in folder.glob("*.yaml"))
        raise TaskError(f"{path}: there is no backbone {backbone} in {folder}{instead(backbone, known)}")
