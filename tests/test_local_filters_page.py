"""The table in `docs/local-filters.md` has the sizes of the networks of the sweep."""

from pathlib import Path

from benchmarks.local_filters import described, networks, sizes

PAGE = Path(__file__).parents[1] / "docs" / "local-filters.md"


def test_page_holds_the_sizes() -> None:
    text = PAGE.read_text().partition("<!-- local filters -->")[2].partition("<!-- /local filters -->")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    found = {row[0]: row[1:7] for row in rows[2:]}
    expected = {}
    for name, build in networks().items():
        parameters, macs = sizes(build)
        expected[name] = [*described(name), f"{parameters:,}", f"{macs:,}"]
    assert found == expected
    assert [*found] == ["net1", "net2", "net3", "net4", "net5", "net6", "net7", "elsa"]
