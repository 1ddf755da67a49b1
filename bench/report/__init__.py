"""Draws the report of the suite: from report.json to a page that needs nothing but a browser.

    reading     report.json, checked and typed
    measures    what is told of a run, and how its figures are written
    findings    what stands out, in words
    terminal    the tables as plain text
    drawing     which plots there are, their files and what they say in words; canvas draws them
    inlined     a plot as a part of the page
    page        report.html, made with markup and page.css
    palette     the colours of all that is drawn

``bench/run.py`` calls it at its end; ``python bench/report report.json --to DIR`` draws an old report anew. Only the
drawing needs matplotlib: the tables of the terminal are there without it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from measuring import Unavailable, write_json

from report.page import page_of
from report.reading import VERSION, ReportError, cleaned, read
from report.terminal import terminal_table, terminal_width

__all__ = ["VERSION", "ReportError", "require_matplotlib", "terminal_table", "terminal_width", "write_report"]


def require_matplotlib() -> None:
    """Raises Unavailable with what to do; to be asked before a run of many minutes begins."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise Unavailable("matplotlib missing, which draws the report; run: pip install -e '.[bench]'") from error


def write_report(report: Mapping[str, Any], directory: Path) -> Path:
    """Writes report.json, report.html and the plots into the directory; returns where the page is.

    report.json comes first: what was measured is kept even if it cannot be drawn. Raises ReportError, or Unavailable
    where matplotlib is missing.
    """
    checked = read(report)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "report.json", cleaned(report))
    require_matplotlib()
    from report.drawing import draw_all  # not before: it imports matplotlib

    path = directory / "report.html"
    path.write_text(page_of(checked, draw_all(checked, directory / "plots")), encoding="utf-8")
    return path
