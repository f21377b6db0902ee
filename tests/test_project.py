"""The project as installed: one OpenCV, and no import that a command does not need."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import cv2
import pytest
import yaml

from tests.tasks.running import SERVER

ROOT = Path(__file__).parents[1]
INSTALLED_BY_MAKE = (ROOT / ".venv" / "installed").exists() and Path(sys.prefix) == ROOT / ".venv"


@pytest.mark.skipif(not INSTALLED_BY_MAKE, reason="only `make install` promises exactly one OpenCV")
def test_exactly_one_opencv_without_a_window_system() -> None:
    builds = {found.metadata["Name"] for found in distributions() if "opencv" in found.metadata["Name"].lower()}
    assert builds == {"opencv-python-headless"}
    library = next(Path(cv2.__file__).parent.glob("cv2*.so"))
    linked = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=True).stdout
    assert "libGL" not in linked


def loaded() -> set[str]:
    """Names of the modules of this process."""
    return set(sys.modules)


def test_commands_do_not_import_mmsegmentation_or_wandb() -> None:
    """Asked in a fork of the process that has imported the two commands, and done nothing else."""
    with SERVER.Pool(1) as fresh:
        modules = fresh.apply(loaded)
    assert {"tasks.detect", "tasks.segment", "lightning"} <= modules
    assert not {"mmseg", "mmcv", "mmengine", "wandb", "timm"} & modules


def test_attention_needs_torch_only() -> None:
    """Triton is optional: only the CUDA kernels import it, and they are imported where one starts."""
    used: dict[str, set[str]] = {}
    for file in (ROOT / "attention").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module]
            for module in modules:
                used.setdefault(module.split(".")[0], set()).add(file.name)
    assert used.keys() - set(sys.stdlib_module_names) == {"torch", "triton", "attention"}
    assert used["triton"] == {"launch.py", "triton_kernels.py"}


def test_pins_are_plain_versions() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 50
    for line in lines:
        name, separator, version = line.partition(";")[0].partition("==")
        assert separator and name.strip() and version.strip() and "/" not in line and "@" not in line, line


def test_version_and_licence_are_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["title"], citation["version"], citation["license"]) == (
        project["name"],
        project["version"],
        project["license"],
    )
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in project["authors"]]
    headings = re.findall("^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in ("Unreleased", project["version"]) and project["version"] in headings
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text() and project["license-files"] == ["LICENSE"]


def test_code_that_may_stand_twice_says_why() -> None:
    files = [file for package in ROOT.glob("*/__init__.py") for file in package.parent.rglob("*.py")]
    marks = [line for file in files for line in file.read_text().splitlines() if "pylint: disable" in line]
    assert all(re.search(r"# pylint: disable=duplicate-code  # \w.{10,}$", mark) for mark in marks), marks
