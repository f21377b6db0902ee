"""By what runs are told apart; runs from before and after an option was added are seeds of one configuration."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.report.defaults import option_of
from tasks.report.keys import Keys
from tasks.report.runs import Run, find_runs, flat_options
from tests.tasks.report.run_folders import write_run

BACKBONE = "model.backbone.attention_stages"


def runs_with(root: Path, *options: dict[str, Any]) -> list[Run]:
    """Runs of seeds 0, 1, ... whose backbones have these options besides the others."""
    for seed, changed in enumerate(options):
        folder = root / f"run{seed}"
        write_run(folder, seed=seed)
        content = yaml.safe_load((folder / "config.fit.yaml").read_text())
        content["model"]["backbone"]["init_args"] |= changed
        (folder / "config.fit.yaml").write_text(yaml.safe_dump(content))
    return find_runs([root])


def test_a_run_from_before_an_option_had_its_default(tmp_path: Path) -> None:
    """The file of the first run does not have the option, that of the second has its default: seeds of one."""
    old, new = runs_with(tmp_path, {}, {"attention_stages": [1, 2, 3, 4]})
    assert (old.options.get(BACKBONE), new.options.get(BACKBONE)) == (None, "[1, 2, 3, 4]")
    assert option_of(old, BACKBONE) == option_of(new, BACKBONE)
    keys = Keys([old, new])
    assert keys.shown == ["backbone", "attention", "head"]
    assert keys.of(old) == keys.of(new) | {"seed": "0"}


def test_another_value_than_the_default_is_another_configuration(tmp_path: Path) -> None:
    """The old run is shown with what the option was then."""
    runs = runs_with(tmp_path, {}, {"attention_stages": [3, 4]})
    keys = Keys(runs)
    assert keys.shown == ["backbone", "attention", "head", BACKBONE]
    assert [keys.of(run)[BACKBONE] for run in runs] == ["[1, 2, 3, 4]", "[3, 4]"]


def test_null_is_a_value_and_no_default(tmp_path: Path) -> None:
    """A null in the file stays one where the default is another value."""
    runs = runs_with(tmp_path, {}, {"attention_stages": None})
    assert [option_of(run, BACKBONE) for run in runs] == ["[1, 2, 3, 4]", None]
    assert BACKBONE in Keys(runs).shown
    assert flat_options({"model": {"weights": None, "width": 2}}) == {"model.weights": None, "model.width": "2"}


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ({}, "model.channels_last", "false"),  # of the task's options, whose class no file names
        ({}, "model.backbone.no_such_option", None),
        ({"model.backbone": "backbones.NoSuchClass"}, BACKBONE, None),
        ({"model.backbone": "os.path"}, "model.backbone.join", None),  # foreign code is not asked
        ({}, "trainer.precision", None),  # nor what has no class
        ({"model.backbone.attention": None}, "model.backbone.attention.reduction", None),
    ],
)
def test_defaults_are_those_of_our_own_classes(
    tmp_path: Path, options: dict[str, str | None], name: str, value: str | None
) -> None:
    """What cannot be told is None, as is what belongs to nothing."""
    (run,) = runs_with(tmp_path, {})
    changed = Run(run.folder, run.state, summary=run.summary, options={**run.options, **options})
    assert option_of(changed, name) == value
