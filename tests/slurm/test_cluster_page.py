"""`docs/cluster.md` says what is so: scripts, exit codes, and bytes that a command has counted."""

import re
from pathlib import Path

import pytest

from benchmarks.scale_out import EVALUATION_COLUMNS, MARKS, RECIPES, STEP_COLUMNS, measure_step, table
from tasks.run.exit_codes import MEANINGS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text()


def between(start: str, end: str) -> str:
    """What stands between two marks of the page."""
    assert PAGE.count(start) == PAGE.count(end) == 1
    return PAGE.partition(start)[2].partition(end)[0].strip()


def test_exit_codes_are_those_of_the_program() -> None:
    rows = [[str(code), meaning] for code, meaning in MEANINGS.items()]
    assert between("<!-- exit codes -->", "<!-- /exit codes -->") == table(("code", "meaning"), rows)


def test_all_scripts_are_explained_and_exist() -> None:
    scripts = {path.name for path in (ROOT / "configs" / "slurm").iterdir()}
    assert set(re.findall(r"\w+\.sbatch", PAGE)) == scripts
    for script in scripts:
        text = (ROOT / "configs" / "slurm" / script).read_text()
        assert "--resume auto" in text and "--kill-on-bad-exit=1" in text and "#SBATCH --requeue" in text
        assert text.rstrip().endswith(("exit $?", "exit $code"))  # the job's state is that of the program


def test_bytes_stand_where_the_command_writes_them() -> None:
    measured = between(*MARKS)
    for columns in (STEP_COLUMNS, EVALUATION_COLUMNS):
        assert f"| {' | '.join(columns)} |" in measured
    rows = dict(re.findall(r"^\| (\w+/\w+) \| (.*) \|$", measured, re.MULTILINE))
    assert rows.keys() == set(RECIPES)
    for row in rows.values():
        learnt, gradients, *_ = (int(cell.replace(",", "")) for cell in row.split(" | ")[:2])
        assert gradients == 4 * learnt


@pytest.mark.slow
def test_bytes_are_those_of_today() -> None:
    step = measure_step("detect/quickstart")
    assert f"| {' | '.join(step.row())} |" in between(*MARKS)
