"""The wheel: it holds what is on the disk, and trains from a folder that has nothing to do with the checkout."""

import json
import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def packages() -> list[Path]:
    """Top-level packages; benchmarks belong to the checkout only."""
    return [file.parent for file in ROOT.glob("*/__init__.py") if file.parent.name != "benchmarks"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (folder / "source").mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / "source")
    for package in packages():
        shutil.copytree(package, folder / "source" / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "."]
    answer = subprocess.run([*command, "-w", str(folder)], cwd=folder / "source", capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_every_file_of_every_package(wheel: Path) -> None:
    files = [file.relative_to(ROOT) for package in packages() for file in package.rglob("*") if file.is_file()]
    expected = {str(file) for file in files if "__pycache__" not in file.parts and file.suffix != ".md"}
    assert {"configs/detect/quickstart.yaml", "backbones/zoo/zoo.csv", "tasks/detect.py"} < expected
    names = zipfile.ZipFile(wheel).namelist()
    information = [name for name in names if ".dist-info/" in name]
    assert set(names) - set(information) == expected
    assert any(name.endswith("/licenses/LICENSE") for name in information)


def test_recipes_are_written_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "configs", str(tmp_path / "recipes")]
    subprocess.run(command, cwd=ROOT, check=True)
    written = {file.relative_to(tmp_path / "recipes") for file in (tmp_path / "recipes").rglob("*") if file.is_file()}
    recipes = [file for pattern in ("*.yaml", "*.sbatch") for file in (ROOT / "configs").rglob(pattern)]
    assert written == {file.relative_to(ROOT / "configs") for file in recipes}
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 2 and again.stderr.endswith(
        "recipes exists already; give the name of a folder that does not\n"
    )


@pytest.mark.slow
def test_installed_wheel_trains_both_tasks_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    environment, work = tmp_path / "environment", tmp_path / "work"
    work.mkdir()
    python = environment / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True)
    (installed,) = environment.glob("lib/python*/site-packages")
    # The dependencies, without a second copy of PyTorch; a plain path, so the checkout's own .pth is not followed.
    (installed / "dependencies.pth").write_text("\n".join(site.getsitepackages()))

    def run(*arguments: str) -> str:
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        answer = subprocess.run([python, *arguments], cwd=work, env=clean, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    places = run(
        "-c", "import attention, backbones, configs, datamodules, tasks; print(tasks.__file__, attention.__file__)"
    )
    assert places.split() == [str(installed / name / "__init__.py") for name in ("tasks", "attention")]
    run("-m", "configs", "configs")
    run("-m", "datamodules.shapes", "--root=data/shapes", "--seed=0", "--train=12", "--val=7")
    for task in ("detect", "segment"):
        options = [
            "--trainer.max_epochs=1",
            "--trainer.limit_val_batches=1",
            "--data.batch_size=4",
            "--data.num_workers=0",
        ]
        run("-m", f"tasks.{task}", "fit", f"--config=configs/{task}/quickstart.yaml", *options, "--wandb.mode=disabled")
        summary = json.loads((work / "runs" / task / "quickstart" / "summary.json").read_text())
        assert summary["step"] == 3 and summary["attention"] == "CoordinateAttention"
    assert "runs/segment/quickstart" in run("-m", "tasks.compare", "runs")
