"""`python -m tests.tasks.report.picture PAGE PICTURE`: the first tables and the costs of a report in a picture."""

import sys
from pathlib import Path

from tests.tasks.report.opened import Opened, launched


def take_picture(page: Path, picture: Path) -> None:
    """Opens a report in the browser, chooses latency as its cost, and keeps what follows the text above the numbers."""
    with launched() as (_, chromium):
        opened = Opened(chromium, page.resolve().as_uri(), last=1, viewport={"width": 1280, "height": 900})
        costs = opened.page.locator("#section-1-cost").get_by_label("Cost", exact=True)
        costs.select_option(index=[*map(str.lower, costs.locator("option").all_inner_texts())].index("latency, ms"))
        opened.page.locator("#section-1-cost .chart[aria-label*='latency']").wait_for()
        first, last = (opened.page.locator(place).bounding_box() for place in ("#section-1", "#section-1-cost"))
        height = last["y"] + last["height"] - first["y"] + 16
        clip = {"x": 0, "y": first["y"], "width": 1280, "height": height}
        opened.page.screenshot(path=picture, full_page=True, clip=clip)
        if opened.faults:
            sys.exit(f"error: {page}: {opened.faults[0]}")


if __name__ == "__main__":
    take_picture(Path(sys.argv[1]), Path(sys.argv[2]))
