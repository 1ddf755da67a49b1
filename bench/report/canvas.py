"""Bars and curves, drawn. The one module of the benchmarks that knows matplotlib.

A subject has the same colour and dashes on every plot; gbot's line is solid, thicker and on top. The plots are small
with letters of normal size, so that they can be read when a telephone shows them at its own width. As files they are
white; what becomes of their colours on the page is told by inlined.py.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from report.measures import three_digits
from report.palette import colours_of, light
from report.reading import GBOT

Drawn = Figure
Points = Sequence[tuple[float, float]]  # not-a-number where nothing was measured: the line has a gap there

WIDTH_INCHES, HEIGHT_INCHES, BARS_HEIGHT_MAX_INCHES = 4.6, 3.1, 3.8
BAR_INCHES, AROUND_BARS_INCHES = (0.47, 0.25), 0.75  # as thick as that, and thinner where there are many
PNG_DOTS_PER_INCH = 200
COLUMN_POINTS = 48
LEGEND_COLUMNS_MAX, LEGEND_ROW_INCHES = 3, 0.2
LEGEND: dict[str, Any] = {"frameon": False, "handlelength": 2.6, "columnspacing": 1.4}
INK, QUIET, FAINT = light("ink"), light("quiet"), light("line")
DASHES = ((0, (6, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1.2)))
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # a name is never a formula
    "figure.titlesize": 10.5,
    "figure.titleweight": "bold",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": QUIET,
    "axes.spines.left": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "gbot",  # the same report gives the same files
}


class Pens:
    """How each subject of a report is drawn."""

    def __init__(self, subjects: Sequence[str]) -> None:
        others = [subject for subject in subjects if subject != GBOT]
        self.colours = colours_of(subjects)
        self._dashes = {one: DASHES[at % len(DASHES)] for at, one in enumerate(others)}

    def line(self, subject: str) -> dict[str, Any]:
        if subject == GBOT:
            return {"color": self.colours[GBOT], "linewidth": 3.0, "zorder": 3}
        return {"color": self.colours[subject], "linestyle": self._dashes[subject], "linewidth": 1.6, "zorder": 2}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Ours, whatever the user has set for matplotlib."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def bars(title: str, values: Mapping[str, float], pens: Pens, asked: float | None) -> Figure:
    """A bar for each subject, the first one on top, a dashed line at what was asked, and the figures in a column of
    their own to the right of both."""
    thick, thin = (AROUND_BARS_INCHES + inches * len(values) for inches in BAR_INCHES)
    height = max(thin, min(thick, BARS_HEIGHT_MAX_INCHES))
    figure, axes = titled(title, height)
    axes.barh(list(values), list(values.values()), color=[pens.colours[one] for one in values], height=0.7)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02 * max(*values.values(), asked or 0) or 1)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", labelcolor=INK)
    for at, value in enumerate(values.values()):
        write_right_of(axes, at, three_digits(value))
    if asked:
        axes.axvline(asked, color=INK, linestyle=(0, (4, 2)), linewidth=1.2)
        axes.set_xlabel(f"dashed: {asked:,.0f} events/s asked for")
    return figure


def write_right_of(axes: Axes, row: int, text: str) -> None:
    """In a column, for which constrained layout keeps room."""
    offset = (COLUMN_POINTS, 0)
    how: dict[str, Any] = {"horizontalalignment": "right", "verticalalignment": "center", "annotation_clip": False}
    axes.annotate(text, (1, row), offset, ("axes fraction", "data"), "offset points", **how)


def curves(title: str, lines: Mapping[str, Points], pens: Pens, *, logarithmic: bool) -> Figure:
    """A line over time for each subject, with a legend below."""
    figure, axes = titled(title, HEIGHT_INCHES)
    drawn = [draw_line(axes, points, pens.line(subject)) for subject, points in lines.items()]
    axes.grid(True)
    axes.set_xlabel("seconds since the load began")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter("")
        axes.set_ylabel("logarithmic")
    else:
        highest = max(value for points in lines.values() for _, value in points if not math.isnan(value))
        axes.set_ylim(0, 1.08 * highest or 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    add_legend(figure, drawn, list(lines))
    return figure


def add_legend(figure: Figure, drawn: Sequence[Any], names: Sequence[str]) -> None:
    """Below the axes, in as many columns as find room; the figure grows by what more than two rows need."""
    for columns in range(LEGEND_COLUMNS_MAX, 0, -1):
        legend = figure.legend(drawn, names, loc="outside lower center", ncols=columns, **LEGEND)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
    rows = math.ceil(len(names) / columns)
    figure.set_figheight(HEIGHT_INCHES + LEGEND_ROW_INCHES * max(0, rows - 2))


def titled(title: str, height_inches: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    figure.suptitle(title, x=0.015, horizontalalignment="left")
    return figure, figure.add_subplot()


def draw_line(axes: Axes, points: Points, pen: Mapping[str, Any]) -> Any:
    """The line; a point with a gap on both sides would not be seen, so it gets a dot."""
    (line,) = axes.plot([at for at, _ in points], [value for _, value in points], **pen)
    known = [False, *(not math.isnan(value) for _, value in points), False]
    alone = [point for at, point in enumerate(points) if known[at : at + 3] == [False, True, False]]
    if alone:
        axes.plot(*zip(*alone, strict=True), **{**pen, "linestyle": "none", "marker": "o", "markersize": 4})
    return line


def svg(figure: Figure) -> bytes:
    return rendered(figure, format="svg", metadata={"Date": None})


def png(figure: Figure) -> bytes:
    return rendered(figure, format="png", dpi=PNG_DOTS_PER_INCH)


def rendered(figure: Figure, **how: Any) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, **how)
    return buffer.getvalue()
