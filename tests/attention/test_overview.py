"""The table of operators, how operators are found, and the page that tells how to add one."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attention import CBAM, ELSA, SqueezeExcitation, overview
from attention.base import Refine

ROOT = Path(__file__).parents[2]


def run(folder, *command):
    """A Python command in a folder that has its own copy of `attention`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def package(tmp_path):
    """A copy of `attention` that a test may change."""
    shutil.copytree(ROOT / "attention", tmp_path / "attention", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_page_is_current():
    overview.main(["--check"])


def test_page_has_the_measured_table_of_local_filters(monkeypatch, tmp_path):
    section = overview.page().partition("\n## Local filters\n")[2]
    rows = re.findall(r"^\| (net\d|elsa) \|.* \| (\d+\.\d) \|$", section, re.MULTILINE)
    assert [name for name, _ in rows] == [*(f"net{number}" for number in range(1, 8)), "elsa"]
    assert all(line in (ROOT / "docs" / "local-filters.md").read_text() for line in section.splitlines()[5:])
    monkeypatch.setattr(overview, "LOCAL_FILTERS", tmp_path / "none.md")
    assert "## Local filters" not in overview.page()


def test_page_has_every_operator_with_paper_equation_and_cost():
    text = overview.page()
    assert "not measured on GPU" in text
    for operator in overview.operators():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| [`{operator.__name__}`]")]
        assert len(re.split(r"(?<!\\)\|", row)) == len(overview.COLUMNS) + 2
    assert "[arXiv 1807.06521](https://arxiv.org/abs/1807.06521)" in text
    assert "`y = x' * M_s(x'),  M_s = sigmoid(BN(conv_{k x k}([max_C x'; mean_C x'])))  (B, 1, H, W)`" in text
    assert overview.describe(CBAM).kind == "Refinements" and overview.describe(ELSA).kind == "Mixers"


def test_measured_times_get_a_column():
    times = {"device": "Some GPU", "size": "8x9"}
    text = overview.page(times | {"rows": [{"name": "CBAM", "forward_ms": 0.125, "training_ms": 2.0}]})
    assert "On Some GPU, 8x9: last column." in text
    assert re.search(r"\[`CBAM`\].* \| 0\.12 ms, 2\.00 ms \|\n", text)
    assert re.search(r"\[`SqueezeExcitation`\].* \| not measured on GPU \|\n", text)


def test_command_prints_writes_and_checks(tmp_path, capsys, monkeypatch):
    overview.main([])
    text = capsys.readouterr().out
    overview.main(["--write", str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text() == text
    monkeypatch.setattr(overview, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(overview, "ROOT", tmp_path)
    overview.main(["--check"])
    (tmp_path / "page.md").write_text("old")
    with pytest.raises(SystemExit, match=r"page\.md is outdated; run python -m attention\.overview"):
        overview.main(["--check"])
    monkeypatch.setattr(overview, "GPU_TIMES", tmp_path / "times.json")
    (tmp_path / "times.json").write_text(json.dumps({"device": "Some GPU", "size": "8x9", "rows": []}))
    with pytest.raises(SystemExit, match="2"):
        overview.main(["--write", str(tmp_path / "nowhere" / "page.md")])
    assert re.search(r"^error: cannot write .*nowhere/page\.md: No such file or directory$", capsys.readouterr().err)
    overview.main([])
    assert "On Some GPU" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        (r"Parameters: .*?\n\n", "'Parameters: ... Cost: ...'"),
        (r" Cost: ", "'Parameters: ... Cost: ...'"),
        (r"Place: ", "'Place: ...'"),
        (r"Args:\n", "'Args:'"),
        (r"    [sy] = .*", "an equation block"),
    ],
)
def test_an_incomplete_docstring_is_named(pattern, what, monkeypatch):
    docstring = inspect.cleandoc(SqueezeExcitation.__doc__)  # Python 3.13 has taken the indentation off already
    changed = re.sub(pattern, "", docstring, flags=re.DOTALL if "Parameters" in pattern else 0)
    assert changed != docstring
    monkeypatch.setattr(SqueezeExcitation, "__doc__", changed)
    with pytest.raises(ValueError, match=f"SqueezeExcitation lacks .*{re.escape(what)}"):
        overview.describe(SqueezeExcitation)


def test_an_operator_without_paper_is_named():
    class Nameless(Refine):
        """Nothing."""

        def forward(self, x):
            return x

    with pytest.raises(ValueError, match="the docstring of Nameless lacks a first sentence"):
        overview.describe(Nameless)


def test_errors_of_a_new_file_and_names_given_twice_are_not_hidden(package):
    (package / "first.py").write_text("import attention.nothing_of_this_name\n")
    (package / "second.py").write_text(
        "from attention.base import Refine\nclass CBAM(Refine):\n    def forward(self, x): return x\n"
    )
    (package / "try_both.py").write_text(
        "import shutil\n"
        "for file in ('first.py', 'second.py'):\n"
        "    shutil.copy(file, 'attention/broken.py')\n"
        "    try:\n"
        "        import attention\n"
        "    except Exception as error:\n"
        "        print(error)\n"
    )
    answer = run(package, "-B", "try_both.py")
    first, second = answer.stdout.splitlines()
    assert first == "No module named 'attention.nothing_of_this_name'", answer.stderr
    assert re.search(r"attention\.broken\.CBAM is already attention\.cbam\.CBAM; rename one", second)


def test_the_example_of_the_page_passes_the_contract_tests(package):
    """Operator, case and test are taken from the page; only the copy of the package knows them."""
    page = (ROOT / "docs" / "adding-a-mechanism.md").read_text()
    operator, case, test = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (package / "attention" / "effective_squeeze.py").write_text(operator)
    tests = package / "tests" / "attention"
    tests.mkdir(parents=True)
    shutil.copytree(ROOT / "tests" / "attention" / "cases", tests / "cases")
    for file in ("operators.py", "conftest.py", "distributed_gradients.py"):
        shutil.copy(ROOT / "tests" / "attention" / file, tests)
    for file in (ROOT / "tests" / "attention").glob("test_*contract.py"):
        shutil.copy(file, tests)
    shutil.copy(ROOT / "tests" / "attention" / "test_maps.py", tests)
    shutil.copy(ROOT / "pyproject.toml", package)
    (tests / "test_effective_squeeze.py").write_text(test)
    (tests / "test_page.py").write_text(
        "from attention import overview\n\n\n"
        "def test_page_has_effective_squeeze():\n"
        "    assert '| [`EffectiveSqueezeExcitation`](../attention/effective_squeeze.py) |' in overview.page()\n"
    )
    cases = (tests / "cases" / "gates.py").read_text()
    assert cases.count("\nREFINEMENTS = [\n") == 1
    cases = cases.replace("\nREFINEMENTS = [\n", f"\nREFINEMENTS = [\n    {case.strip()},\n")
    head = "\nfrom attention import"
    (tests / "cases" / "gates.py").write_text(cases.replace(head, f"{head} EffectiveSqueezeExcitation{head}", 1))
    # Two more processes would prove nothing new, nor would tracing what squeeze-and-excitation is made of.
    chosen = "(effective or Effective) and not processes and not compiles"
    answer = run(package, "-m", "pytest", "-q", "-rN", "-p", "no:cacheprovider", "-k", chosen, "tests")
    assert answer.returncode == 0, answer.stdout[-4000:] + answer.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", answer.stdout)[1]) >= 20
