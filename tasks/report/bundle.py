"""`python -m tasks.report.bundle`: writes the code that draws the charts of a report, a part of the package.

It holds Vega, Vega-Lite and Vega-Embed with all that they need, so that a report asks no server for it. It is made with
`vl-convert-python`, which is installed for development only. The licences of what is in it stand in
`page/licences.txt`, as the code itself has lost them.
"""

from importlib.resources import files
from pathlib import Path

from tasks.run.files import write_text

EDITOR = "https://vega.github.io/editor/"
"""Where Vega-Embed would send a chart to be edited; reports do not offer that."""


def bundle() -> str:
    """The code, as one script; it sets `vegaEmbed`."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace(EDITOR, "about:blank")


def main() -> None:
    """Writes it into the package."""
    write_text(Path(str(files("tasks.report") / "page" / "vega.js")), bundle())


if __name__ == "__main__":
    main()
