"""A report in a browser."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")


@contextmanager
def launched() -> Iterator[Any]:
    """The driver and Debian's Chromium; skips the test where either is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no browser in {CHROMIUM}: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield driver, chromium
        chromium.close()


class Opened:
    """The report in a fresh window, without a network; `faults` are what the browser has complained of or asked for.

    Args:
        chromium: The browser.
        address: The page.
        last: Number of its last section.
        **options: Those of a window, such as its size.
    """

    def __init__(self, chromium: Any, address: str, last: int = 3, **options: Any) -> None:
        self.page = chromium.new_context(offline=True, **options).new_page()
        self.faults: list[str] = []
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("requestfailed", lambda request: self.faults.append(request.url))
        self.page.on("request", lambda request: self._see(request.url))
        self.page.goto(address)
        self.page.locator(f"#section-{last}-cost svg").wait_for()

    def _see(self, address: str) -> None:
        if not address.startswith(("file:", "data:")):
            self.faults.append(address)

    def rows(self, section: int = 1) -> list[str]:
        """Labels of the rows of a section's table, from above."""
        rows = self.page.locator(f"#section-{section} table.scores > tbody > tr[data-group]")
        return [row.get_attribute("data-group") for row in rows.all()]

    def value(self, group: str, column: int = 0, section: int = 1, table: str = "scores") -> float:
        """A number of a row: the whole of it, not as it is shown."""
        row = self.page.locator(f"#section-{section} table.{table} > tbody > tr[data-group='{group}']")
        return float(row.locator("td[data-value]").nth(column).get_attribute("data-value"))
