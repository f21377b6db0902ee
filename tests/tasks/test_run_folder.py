"""Where runs go, and what is written there."""

import csv
from pathlib import Path

import pytest

from tasks.errors import TaskError
from tasks.run_folder import choose_run_folder, forget, hand_down, write_text
from tasks.run_logger import CSVMetrics

CONFIG = Path("configs/detect/recipe.yaml")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ATTNDENSE_RUN_FOLDER", "SLURM_JOB_ID", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def choose(root: Path, name: str | None = None, checkpoint: Path | None = None, fits: bool = True) -> Path:
    return choose_run_folder("detect", root, name, CONFIG, checkpoint, fits)


def test_named_by_the_config_and_numbered(tmp_path: Path) -> None:
    assert choose(tmp_path) == tmp_path / "detect" / "recipe"
    (tmp_path / "detect" / "recipe" / "checkpoints").mkdir(parents=True)
    assert choose(tmp_path) == tmp_path / "detect" / "recipe-2"
    (tmp_path / "detect" / "recipe-2").mkdir()
    assert choose(tmp_path) == tmp_path / "detect" / "recipe-3"
    assert choose(tmp_path, fits=False) == tmp_path / "detect" / "recipe"


def test_a_checkpoint_leads_to_its_run(tmp_path: Path) -> None:
    run = tmp_path / "detect" / "other"
    assert choose(tmp_path, checkpoint=run / "checkpoints" / "last.ckpt") == run
    assert choose(tmp_path, "mine", run / "checkpoints" / "last.ckpt") == tmp_path / "detect" / "mine"


def test_slurm_jobs_have_stable_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert choose(tmp_path) == tmp_path / "detect" / "recipe-4711"
    (tmp_path / "detect" / "recipe-4711" / "checkpoints").mkdir(parents=True)
    assert choose(tmp_path) == tmp_path / "detect" / "recipe-4711"  # requeued: the same folder


def test_started_processes_inherit_the_choice(tmp_path: Path) -> None:
    hand_down(tmp_path / "chosen")
    try:
        assert choose(tmp_path) == tmp_path / "chosen"
    finally:
        forget()
    assert choose(tmp_path) == tmp_path / "detect" / "recipe"


def test_processes_from_outside_must_not_race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert choose(tmp_path) == tmp_path / "detect" / "recipe"
    (tmp_path / "detect" / "recipe" / "checkpoints").mkdir(parents=True)
    with pytest.raises(TaskError, match="--name"):
        choose(tmp_path)


def test_write_text_leaves_no_temporary_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.json", "1")
    write_text(tmp_path / "a" / "b.json", "2")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]
    assert (tmp_path / "a" / "b.json").read_text() == "2"


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as lines:
        return list(csv.DictReader(lines))


def test_table_joins_numbers_of_a_step_and_grows_columns(tmp_path: Path) -> None:
    table = CSVMetrics(tmp_path)
    table.log_metrics({"a": 1.0}, 10)
    table.save()
    table.log_metrics({"b": 2.0}, 10)
    table.log_metrics({"a": 3.0}, 20)
    table.save()
    assert rows(tmp_path) == [{"step": "10", "a": "1.0", "b": "2.0"}, {"step": "20", "a": "3.0", "b": ""}]


def test_resumed_table_forgets_what_the_checkpoint_did_not_see(tmp_path: Path) -> None:
    table = CSVMetrics(tmp_path)
    for step in (10, 20, 30):
        table.log_metrics({"a": float(step)}, step)
    table.save()
    resumed = CSVMetrics(tmp_path)
    resumed.continue_from(20)
    resumed.log_metrics({"a": -1.0}, 25)
    resumed.finalize("success")
    assert [(row["step"], row["a"]) for row in rows(tmp_path)] == [("10", "10.0"), ("20", "20.0"), ("25", "-1.0")]
