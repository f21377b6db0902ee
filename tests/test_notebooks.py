"""The notebooks of `docs/notebooks`: without outputs, and executed from the first cell to the last."""

import os
import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel of its own, on 12 images and for one epoch."""
    notebook: Any = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 4 and not any(cell.outputs or cell.execution_count for cell in cells)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    for name, value in {"ATTNDENSE_NOTEBOOK": "quick", "OMP_NUM_THREADS": "1", "PYTHONPATH": search}.items():
        monkeypatch.setenv(name, value)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    kinds = {kind for cell in cells for output in cell.outputs for kind in output.get("data", {})}
    printed = "".join(output.text for cell in cells for output in cell.outputs if output.output_type == "stream")
    assert "image/png" in kinds
    if path.stem == "predict":
        assert re.search(r"^\{'[a-z]+': [01]\.\d+", printed, re.MULTILINE), printed
    else:
        assert "notebook/runs/detect/cbam" in printed and "CBAM" in printed
