"""`python -m tasks.analyse` on a trained run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tasks.analyse import main
from tests.tasks.conftest import refused


def test_a_run_is_analysed(trained: Callable[[str], Path], shapes: Path, tmp_path: Path) -> None:
    folder = trained("detect")
    images = next(shapes.rglob("coco/**/*.jpg")).parent
    arguments = [str(folder), f"--images={images}", f"--output={tmp_path / 'out'}", "--limit=4"]
    main(arguments)
    result = json.loads((tmp_path / "out" / "analyses.json").read_text())
    assert result["images"] == 4 and result["distances"] == result["centres"] == result["selection"] == {}
    assert len(result["gates"]) == 32  # coordinate attention in 16 blocks, rows and columns
    assert all(0 <= gate["share"] <= 1 and len(gate["mean"]) > 8 for gate in result["gates"].values())
    layers = result["similarity"]["layers"]
    assert len(layers) == 16 and [len(row) for row in result["similarity"]["matrix"]] == [16] * 16
    drawn = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert drawn == ["analyses.json", "gates.svg", "similarity.svg"]
    first = (tmp_path / "out" / "gates.svg").read_text()
    assert "between images" in first
    main(arguments)
    assert (tmp_path / "out" / "gates.svg").read_text() == first  # nothing of the day it was drawn on


def test_what_cannot_be_analysed_is_one_line(trained: Callable[[str], Path], shapes: Path, tmp_path: Path) -> None:
    with refused(r"error: .*nowhere has no checkpoint; give the folder of a trained run"):
        main([str(tmp_path / "nowhere"), f"--images={tmp_path}"])
    folder = shutil.copytree(trained("detect"), tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with refused(r"error: .*empty has 0 images; give a folder with at least two of .jpg"):
        main([str(folder), f"--images={tmp_path / 'empty'}"])
    images = next(shapes.rglob("coco/**/*.jpg")).parent
    (tmp_path / "list.json").write_text("[1]")
    for name, kind in (("nowhere.json", "FileNotFoundError"), ("list.json", "AssertionError")):
        with refused(rf"^error: --annotations .*{name} is no COCO file \({kind}\)$"):
            main([str(folder), f"--images={images}", "--limit=2", f"--annotations={tmp_path / name}"])
    with refused(r"^error: --output .*list.json/out: Not a directory; give a folder$"):
        main([str(folder), f"--images={images}", "--limit=2", f"--output={tmp_path / 'list.json' / 'out'}"])
