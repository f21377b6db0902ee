"""Fixtures shared by all tests: where the real sample data lies; and how long each folder's tests have taken."""

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def sample_data() -> Path:
    """Folder of the sample data sets: $ATTNDENSE_DATA, or ``shared/data`` beside the project."""
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    return Path(os.environ.get("ATTNDENSE_DATA", default))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """`sample_data`."""
    return sample_data()


@pytest.fixture(scope="session")
def shared_data(data_root: Path) -> Callable[[str], Path]:
    """``shared_data("coco-eval")`` is that sub-folder; the test is skipped where it is absent."""

    def folder(name: str) -> Path:
        path = data_root / name
        if not path.is_dir():
            pytest.skip(f"sample data {name!r} not found in {data_root}; set ATTNDENSE_DATA")
        return path

    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample data set, small: 12 training and 7 validation scenes in ``coco`` and ``ade20k``. Read-only."""
    from datamodules.shapes import write_shapes

    root = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(root, seed=0, train=12, val=7)
    return root


@pytest.fixture(scope="session", autouse=True)
def annotation_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keeps the tests, and the processes they start, out of the user's own annotation cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNDENSE_CACHE", str(folder))
        yield folder


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keeps the garbage collector away from what is imported, now and later: half a million objects that all stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how many seconds the tests of each folder have taken, added up over the processes."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0].rpartition("/")[0]] += report.duration
    terminalreporter.write_sep("=", "seconds by folder")
    for folder, total in seconds.most_common():
        terminalreporter.write_line(f"{total:8.1f} {folder}")
