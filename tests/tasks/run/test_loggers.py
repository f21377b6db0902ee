"""`--trainer.logger` in all forms."""

from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger

from tasks.errors import TaskError
from tasks.run import loggers
from tasks.run.loggers import assemble_loggers, check_loggers
from tasks.run.table import CSVMetrics


def named(name: str) -> Namespace:
    return Namespace(class_path=f"lightning.pytorch.loggers.{name}", init_args=Namespace(save_dir="."))


@pytest.mark.parametrize(
    "given", [None, True, False, [], named("CSVLogger"), [named("CSVLogger"), {"class_path": "CSVLogger"}]]
)
def test_usual_loggers_are_let_through(given: Any) -> None:
    check_loggers(given)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "TensorBoardLogger",
            "--trainer.logger TensorBoardLogger needs the package tensorboard; install the extra: pip install -e "
            "'.[tensorboard]'",
        ),
        ("MLFlowLogger", "--trainer.logger MLFlowLogger needs the package mlflow; install it: pip install mlflow"),
    ],
)
def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, name: str, line: str, listed: bool) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    with pytest.raises(TaskError) as refusal:
        check_loggers([named("CSVLogger"), named(name)] if listed else named(name))
    assert str(refusal.value) == line
    monkeypatch.setattr(loggers, "find_spec", lambda package: package == loggers.PACKAGES[name][-1] or None)
    check_loggers(named(name))


def test_unprotected_wandb_is_refused() -> None:
    with pytest.raises(TaskError, match=r"--trainer\.logger WandbLogger .*--wandb\.project"):
        check_loggers([named("WandbLogger")])


def test_loggers_of_a_command(tmp_path: Path) -> None:
    table, own = CSVMetrics(tmp_path), CSVLogger(tmp_path)
    tracker: Any = object()
    assert assemble_loggers(False, table, tracker) == []
    assert assemble_loggers(None, table, tracker) == assemble_loggers(True, table, tracker) == [table, tracker]
    assert assemble_loggers(True, table, None) == [table]
    assert assemble_loggers(own, table, tracker) == [table, own]
    assert assemble_loggers([own, own], table, None) == [table, own, own]
    assert assemble_loggers([], table, tracker) == [table]
