"""Bars and curves, drawn. The one module of the benchmarks that knows matplotlib.

A subject has the same colour and dashes on every plot: the colours are Okabe and Ito's, which colour-blind people tell
apart, without yellow, which vanishes on white. gbot's line is solid, thicker and on top. The plots are small with
letters of normal size, so that they can be read when a telephone shows them at its own width, and white: the page puts
them on white cards in the dark too.
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
from report.reading import GBOT

Drawn = Figure
Points = Sequence[tuple[float, float]]  # not-a-number where nothing was measured: the line has a gap there

WIDTH_INCHES, HEIGHT_INCHES = 4.6, 3.1
BAR_INCHES, AROUND_BARS_INCHES = (0.47, 0.25), 0.75  # as thick as that, and thinner where there are many
PNG_DOTS_PER_INCH = 200
LEGEND_COLUMNS_MAX, LEGEND_ROW_INCHES = 3, 0.2
LEGEND: dict[str, Any] = {"frameon": False, "handlelength": 2.6, "columnspacing": 1.4}
INK, FAINT = "#1f2933", "#d5dae0"
GBOT_COLOUR = "#0072B2"
COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ((0, (6, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1.2)))
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # a name is never a formula
    "figure.titlesize": 10.5,
    "figure.titleweight": "bold",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "gbot",  # the same report gives the same files
}


class Pens:
    """How each subject of a report is drawn."""

    def __init__(self, subjects: Sequence[str]) -> None:
        others = [subject for subject in subjects if subject != GBOT]
        self.colours = {GBOT: GBOT_COLOUR} | {one: COLOURS[at % len(COLOURS)] for at, one in enumerate(others)}
        self._dashes = {one: DASHES[at % len(DASHES)] for at, one in enumerate(others)}

    def line(self, subject: str) -> dict[str, Any]:
        if subject == GBOT:
            return {"color": GBOT_COLOUR, "linewidth": 3.0, "zorder": 3}
        return {"color": self.colours[subject], "linestyle": self._dashes[subject], "linewidth": 1.6, "zorder": 2}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Ours, whatever the user has set for matplotlib."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def bars(title: str, values: Mapping[str, float], pens: Pens, asked: float | None) -> Figure:
    """A bar for each subject, the first one on top, with its figure written to it; a dashed line at what was asked."""
    thick, thin = (AROUND_BARS_INCHES + inches * len(values) for inches in BAR_INCHES)
    height = max(thin, min(thick, HEIGHT_INCHES))
    figure, axes = titled(title, height)
    drawn = axes.barh(list(values), list(values.values()), color=[pens.colours[one] for one in values], height=0.7)
    on_white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.bar_label(drawn, [three_digits(value) for value in values.values()], padding=5, bbox=on_white)
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.set_xlim(left=0)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if asked:
        axes.axvline(asked, color=INK, linestyle=(0, (4, 2)), linewidth=1.2)
        axes.set_xlabel(f"dashed: {asked:,.0f} events/s asked for")
        axes.xaxis.set_visible(True)
        axes.set_xticks([])
    return figure


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
