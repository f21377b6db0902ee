"""`python -m tasks.profile --runs`: each network once, all in turn, the numbers in every run folder."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tasks import compare
from tasks.profile import runs
from tasks.profile.__main__ import main
from tasks.report.runs import find_runs
from tests.tasks.conftest import refused


@pytest.fixture
def copies(trained: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """Copies a trained detector under other options and another seed."""

    def copy(name: str, seed: int, **options: Any) -> Path:
        folder = shutil.copytree(trained("detect"), tmp_path / name)
        for file, read, write in (
            ("config.fit.yaml", yaml.safe_load, yaml.safe_dump),
            ("summary.json", json.loads, json.dumps),
        ):
            content = read((folder / file).read_text())
            content["seed" if file == "summary.json" else "seed_everything"] = seed
            if file == "config.fit.yaml":
                content["model"]["backbone"]["init_args"] |= options
            (folder / file).write_text(write(content))
        return folder

    return copy


@pytest.fixture
def threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_seeds_share_what_is_measured_once_and_compare_shows_it(
    copies: Callable[..., Path],
    threads: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = [copies("one", 0), copies("other", 1), copies("wide", 0, width=0.5)]
    peaks = {"one": {"inference": 3.25, "training": 70.5}, "wide": {"inference": 5.0, "training": 140.0}}
    monkeypatch.setattr(runs, "_peaks", lambda built, arguments, device: peaks[Path(arguments[0]).name])
    monkeypatch.setattr(runs, "AT_LEAST", 0.0)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "run.json").write_text("{}")
    capsys.readouterr()
    main(["--runs", str(tmp_path), "--rounds=2", "--batch=2", "--size=64x96", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert [Path(each["name"]).name for each in result["skipped"]] == ["empty"]
    assert [row["runs"] for row in result["rows"]] == [[str(folders[0]), str(folders[1])], [str(folders[2])]]
    content = [json.loads((folder / "costs.json").read_text()) for folder in folders]
    assert (
        content[0]
        == content[1]
        == {key: value for key, value in result["rows"][0].items() if key not in ("name", "runs")}
    )
    for known in content:
        for name in ("latency_ms", "training_step_ms"):
            assert 0 < known[f"{name}_min"] <= known[name] <= known[f"{name}_max"]
        assert known["latency_ms"] < known["training_step_ms"]
        assert (known["threads"], known["batch"], known["image_size"], known["rounds"]) == (1, 2, "64x96", 2)
        assert known["torch"] == torch.__version__ and known["machine"] and known["device"] and known["time"]
    assert (content[0]["training_MB"], content[2]["inference_MB"]) == (70.5, 5.0)
    assert content[2]["training_step_ms"] > content[0]["training_step_ms"]  # twice as wide

    compare.main([str(tmp_path), "--csv"])
    rows = [*csv.DictReader(capsys.readouterr().out.splitlines())]
    assert sorted(float(row["memory"]) for row in rows) == [70.5, 140.0] and "noted step" not in rows[0]
    assert sorted(float(row["latency"]) for row in rows) == sorted({known["latency_ms"] for known in content})
    compare.main([str(tmp_path)])
    shown = capsys.readouterr().out
    assert f"{content[2]['latency_ms']:.1f} ms" in shown and "140.0 MB" in shown
    assert f"latency, training step and memory measured on {content[0]['machine']} (" in shown
    assert f"torch {torch.__version__}, images of 64x96, batches of 2" in shown  # not those of the run
    (folders[2] / "costs.json").write_text(json.dumps(content[2] | {"machine": "elsewhere"}))
    (folders[1] / "costs.json").unlink()
    compare.main([str(tmp_path)])
    shown = capsys.readouterr().out
    assert (
        "were not measured alike, do not compare them: 1 runs on" in shown and "1 of 3 runs were not measured" in shown
    )


def test_what_decides_about_costs(copies: Callable[..., Path], tmp_path: Path) -> None:
    folder = copies("one", 0)
    (run,) = find_runs([folder])
    changed = {
        "model.optimizer.lr": 1,
        "trainer.max_epochs": 1,
        "model.lr_schedule": 1,
        "data.root": 1,
        "model.backbone.attention": 0,
        "model.optimizer": 0,
        "data.batch_size": 0,
        "model.detector.channels": 0,
        "data.pipeline.height": 0,
        "model.compile_backbone": 0,
    }
    for option, together in changed.items():
        other = replace(run, options={**run.options, option: "7"})
        assert len(runs.networks_of([run, other], runs.Setup())) == 2 - together, option
    (network,) = runs.networks_of([run], runs.Setup(size=(64, 96), batch=3))
    assert (network.size, network.batch, network.classes, network.precision) == ("64x96", 3, 6, "float32")


def test_what_cannot_be_measured_is_said_in_a_line(
    copies: Callable[..., Path], threads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_peaks", lambda *_: {"inference": 1.0, "training": 1.0})
    with refused(r"error: no summary.json below .*nothing; expected run folders"):
        main(["runs", str(tmp_path / "nothing")])
    (copies("bare", 0) / "config.fit.yaml").unlink()
    with refused(r"error: .*bare: it has no config.fit.yaml, or no summary"):
        main(["runs", str(tmp_path)])
    copies("odd", 0, width="seven")
    with refused(r"error: .*odd: its options are refused, see above"):
        main(["runs", str(tmp_path / "odd")])
    for wrong in (["--rounds=0"], ["--threads=none"], ["--size=4"], []):
        with pytest.raises(SystemExit) as stop:
            main(["runs", *wrong, *([str(tmp_path)] if wrong else [])])
        assert stop.value.code == 2


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_memory_is_that_of_a_fresh_process(
    task: str, trained: Callable[[str], Path], threads: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(trained(task), tmp_path / "run")
    capsys.readouterr()
    main(["--runs", str(folder), "--rounds=1"])
    known = json.loads((folder / "costs.json").read_text())
    assert 0 < known["inference_MB"] < known["training_MB"] < 2000
    assert f"{known['training_MB']:.1f}" in capsys.readouterr().out
